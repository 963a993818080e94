#include "build/mesh_grid.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "build/vertex_codes.h"
#include "core/records.h"
#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

double power_of_two_below(double x) { return std::exp2(std::floor(std::log2(x))); }

std::string text_of(double x) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", x);
  return text;
}

int32_t snap(double coordinate, double origin, double inverse) {
  const double at = std::nearbyint((coordinate - origin) * inverse);
  return static_cast<int32_t>(std::clamp(at, -0x1p30, 0x1p30));  // beyond: a vertex that no face uses
}

bool source_has_area(const MeshInput& mesh, int64_t f) {
  double u[3], v[3];
  for (int a = 0; a < 3; ++a) {
    const double p = mesh.coordinate(3 * int64_t(mesh.faces[3 * f]) + a);
    u[a] = mesh.coordinate(3 * int64_t(mesh.faces[3 * f + 1]) + a) - p;
    v[a] = mesh.coordinate(3 * int64_t(mesh.faces[3 * f + 2]) + a) - p;
  }
  return u[1] * v[2] != u[2] * v[1] || u[2] * v[0] != u[0] * v[2] || u[0] * v[1] != u[1] * v[0];
}

namespace {

constexpr int grid_bits = 24;           // integers up to 2^24 are exact in float
constexpr int64_t sample_size = 65536;  // faces looked at for the grid step

void check_input(const MeshInput& mesh, int threads) {
  native::demand(mesh.face_count > 0 && mesh.vertex_count > 0, [] {
    return std::string("build: the mesh has no triangles; give faces of shape (M, 3) with M > 0");
  });
  native::demand(mesh.vertex_count < int64_t(none) && mesh.face_count < (int64_t(1) << 31), [&] {
    return "build: at most 2^31 triangles and 2^32 vertices fit one asset, got " +
           std::to_string(mesh.face_count) + " triangles; split the mesh";
  });
  native::parallel_for(mesh.face_count * 3, 1 << 18, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      native::demand(mesh.faces[i] < uint64_t(mesh.vertex_count), [&] {
        return "build: faces must index vertices 0 to " + std::to_string(mesh.vertex_count - 1) + ", got " +
               std::to_string(mesh.faces[i]) + " in face " + std::to_string(i / 3);
      });
  });
}

// Values of the vertices that faces use; what no face uses may be anything.
template <class T>
void check_finite(const MeshInput& mesh, const T* values, int width, const char* what, int threads) {
  if (values == nullptr) return;
  native::parallel_for(mesh.face_count * 3, 1 << 17, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      for (int c = 0; c < width; ++c) {
        const T value = values[size_t(mesh.faces[i]) * width + c];
        native::demand(std::isfinite(value), [&] {
          return std::string("build: ") + what + " must be finite, got " + std::to_string(value) +
                 " at vertex " + std::to_string(mesh.faces[i]) + "; remove or repair that vertex";
        });
      }
  });
}

double edge_length(const MeshInput& mesh, int64_t f, int c) {
  const int64_t a = 3 * int64_t(mesh.faces[3 * f + c]), b = 3 * int64_t(mesh.faces[3 * f + (c + 1) % 3]);
  double square = 0;
  for (int i = 0; i < 3; ++i) {
    const double d = mesh.coordinate(a + i) - mesh.coordinate(b + i);
    square += d * d;
  }
  return std::sqrt(square);
}

// The first percentile of the edges of a sample of faces; zero edges do not count.
double short_edge(const MeshInput& mesh) {
  std::vector<double> lengths;
  const int64_t stride = std::max<int64_t>(1, mesh.face_count / sample_size);
  for (int64_t f = 0; f < mesh.face_count; f += stride)
    for (int c = 0; c < 3; ++c) {
      const double length = edge_length(mesh, f, c);
      if (length > 0) lengths.push_back(length);
    }
  if (lengths.empty()) return 0;
  auto rank = lengths.begin() + static_cast<ptrdiff_t>(lengths.size() / 100);
  std::nth_element(lengths.begin(), rank, lengths.end());
  return *rank;
}

// A tenth of the triangles of some run of faces are smaller than this: a small part of a large mesh, say a
// statue in a landscape, is one run of faces.
double densest_part(const MeshInput& mesh, int threads) {
  const int64_t runs = (mesh.face_count + run_faces - 1) / run_faces;
  std::vector<double> smallest(runs, INFINITY);
  native::parallel_for(runs, 16, threads, [&](int64_t first, int64_t last) {
    std::vector<double> sizes;
    for (int64_t r = first; r < last; ++r) {
      sizes.clear();
      for (int64_t f = r * run_faces; f < std::min(mesh.face_count, (r + 1) * run_faces); ++f) {
        const double size =
            std::max({edge_length(mesh, f, 0), edge_length(mesh, f, 1), edge_length(mesh, f, 2)});
        if (size > 0) sizes.push_back(size);
      }
      if (sizes.empty()) continue;
      auto rank = sizes.begin() + static_cast<ptrdiff_t>(sizes.size() / 10);
      std::nth_element(sizes.begin(), rank, sizes.end());
      smallest[r] = *rank;
    }
  });
  return *std::min_element(smallest.begin(), smallest.end());
}

struct Extent {
  double lo[3], hi[3], largest = 0, across = 0;
};

// Of the vertices that faces use.
Extent extent_of(const MeshInput& mesh) {
  Extent e;
  std::fill(e.lo, e.lo + 3, INFINITY), std::fill(e.hi, e.hi + 3, -INFINITY);
  for (int64_t i = 0; i < mesh.face_count * 3; ++i)
    for (int a = 0; a < 3; ++a) {
      const double x = mesh.coordinate(3 * int64_t(mesh.faces[i]) + a);
      e.lo[a] = std::min(e.lo[a], x), e.hi[a] = std::max(e.hi[a], x);
    }
  for (int a = 0; a < 3; ++a) {
    e.largest = std::max({e.largest, std::fabs(e.lo[a]), std::fabs(e.hi[a])});
    e.across = std::max(e.across, e.hi[a] - e.lo[a]);
  }
  return e;
}

// The finest step whose 24-bit integers reach all of the mesh from an origin.
double finest_step(const Extent& e, const double* origin) {
  double reach = 0;
  for (int a = 0; a < 3; ++a)
    reach = std::max({reach, std::fabs(e.lo[a] - origin[a]), std::fabs(e.hi[a] - origin[a])});
  return reach > 0 ? std::max(power_of_two_below(reach) * std::exp2(1 - grid_bits), double(least_step))
                   : double(least_step);
}

// The grid of a wanted step: from zero where that reaches, else from the middle of the mesh.
Grid grid_of(const Extent& e, double wanted, const double* origin) {
  Grid grid;
  if (origin) std::copy_n(origin, 3, grid.origin);
  if (!origin && finest_step(e, grid.origin) > wanted) {
    double middle[3];
    for (int a = 0; a < 3; ++a) middle[a] = (e.lo[a] + e.hi[a]) / 2;
    const double step = std::max(wanted, 2 * finest_step(e, middle));
    // twice the finest: the middle, snapped to the lattice, may lie half a step aside
    for (int a = 0; a < 3; ++a) grid.origin[a] = std::nearbyint(middle[a] / step) * step;
    wanted = step;
  }
  grid.step = static_cast<float>(std::max(wanted, finest_step(e, grid.origin)));
  return grid;
}

// Two corners of a face with an area fall on one grid point.
bool vanishes(const MeshInput& mesh, int64_t f, const Grid& grid) {
  const double inverse = 1 / double(grid.step);
  int32_t p[3][3];
  for (int c = 0; c < 3; ++c)
    for (int a = 0; a < 3; ++a)
      p[c][a] = snap(mesh.coordinate(3 * int64_t(mesh.faces[3 * f + c]) + a), grid.origin[a], inverse);
  const bool meets = std::equal(p[0], p[0] + 3, p[1]) || std::equal(p[1], p[1] + 3, p[2]) ||
                     std::equal(p[2], p[2] + 3, p[0]);
  return meets && source_has_area(mesh, f);
}

std::vector<int64_t> vanishing_faces(const MeshInput& mesh, const Grid& grid, int threads) {
  const int64_t runs = (mesh.face_count + run_faces - 1) / run_faces;
  std::vector<std::vector<int64_t>> found(runs);
  native::parallel_for(runs, 16, threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t f = r * run_faces; f < std::min(mesh.face_count, (r + 1) * run_faces); ++f)
        if (vanishes(mesh, f, grid)) found[r].push_back(f);
  });
  std::vector<int64_t> all;
  for (const auto& run : found) all.insert(all.end(), run.begin(), run.end());
  return all;
}

void check_step(double step, const Extent& e, const Grid& grid) {
  native::demand(step > 0 && step == power_of_two_below(step) && step >= double(least_step), [&] {
    return "build: step must be a power of two, got " + text_of(step) + "; take " +
           text_of(step > 0 ? power_of_two_below(step) : 1);
  });
  native::demand(double(grid.step) == step, [&] {
    return "build: step " + text_of(step) + " needs more than 24 bits from the origin (" +
           text_of(grid.origin[0]) + ", " + text_of(grid.origin[1]) + ", " + text_of(grid.origin[2]) +
           ") to the far end of the mesh, which is " + text_of(e.across) + " across; take " +
           text_of(grid.step) + " or split the mesh";
  });
}

}  // namespace

Grid choose_grid(const MeshInput& mesh, const GridOptions& options, int threads) {
  check_input(mesh, threads);
  check_finite(mesh, mesh.positions, 3, "vertices", threads);
  check_finite(mesh, mesh.positions64, 3, "vertices", threads);
  check_finite(mesh, mesh.normals, 3, "normals", threads);
  check_finite(mesh, mesh.uvs, 2, "uvs", threads);
  check_finite(mesh, mesh.colors, 4, "colors", threads);
  const Extent e = extent_of(mesh);
  native::demand(e.largest < 1e18, [&] {
    return "build: vertices must lie within 1e18 of the origin, got " + std::to_string(e.largest) +
           "; scale the mesh";
  });
  const double edge = short_edge(mesh);
  native::demand(e.across > 0 && edge > 0, [&] {
    return "build: all " + std::to_string(mesh.face_count) +
           " triangles are degenerate (no edge has a length)";
  });
  if (options.step != 0) {
    const Grid grid = grid_of(e, std::max(options.step, 0.0), options.origin);
    check_step(options.step, e, grid);
    return grid;
  }
  const double wanted = options.bits > 0
                            ? e.across * std::exp2(-options.bits)
                            : std::min({e.across / 65536, edge / 16, densest_part(mesh, threads) / 16});
  const Grid grid = grid_of(e, std::max(power_of_two_below(wanted), double(least_step)), options.origin);
  if (options.bits > 0) return grid;
  const double keeps = step_that_keeps(mesh, grid, options.origin, threads);
  return keeps > 0 ? grid_of(e, keeps, options.origin) : grid;
}

double step_that_keeps(const MeshInput& mesh, const Grid& grid, const double* origin, int threads) {
  const std::vector<int64_t> vanishing = vanishing_faces(mesh, grid, threads);
  const Extent e = extent_of(mesh);
  Grid finer = grid;
  while (
      std::any_of(vanishing.begin(), vanishing.end(), [&](int64_t f) { return vanishes(mesh, f, finer); })) {
    const double step = double(finer.step) / 2;
    finer = grid_of(e, step, origin);
    if (double(finer.step) != step) return 0;
  }
  return finer.step;
}

}  // namespace nanite_cull
