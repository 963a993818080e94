#include "build/weld.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>

#include "build/key_table.h"
#include "build/vertex_codes.h"
#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr double facet_cosine = 0.9999;  // within 0.8 degrees: what two float normals may differ by

// What tells wedges at one position apart, as words of a key: position, the vertex's attributes, material.
class WedgeKeys {
 public:
  static constexpr int max_width = 6;

  WedgeKeys(const MeshInput& mesh, float step, int threads) : mesh_(mesh), uv_step_(step) {
    vertex_words_ = (mesh.normals != nullptr) + 2 * (mesh.uvs != nullptr) + (mesh.colors != nullptr);
    words_.resize(size_t(mesh.vertex_count) * vertex_words_);
    native::parallel_for(mesh.vertex_count, 1 << 14, threads, [&](int64_t first, int64_t last) {
      uint32_t* word = words_.data() + first * vertex_words_;
      for (int64_t v = first; v < last; ++v) {
        if (mesh.normals) *word++ = encode_normal(mesh.normals + 3 * v);
        for (int c = 0; mesh.uvs && c < 2; ++c)
          *word++ = static_cast<uint32_t>(encode_uv(mesh.uvs[2 * v + c], step));
        if (mesh.colors) *word++ = pack_color(mesh.colors + 4 * v);
      }
    });
  }
  int width() const { return 1 + vertex_words_ + (mesh_.materials != nullptr); }
  void write(uint32_t position, size_t vertex, size_t face, uint32_t* key) const {
    *key++ = position;
    key = std::copy_n(words_.data() + vertex * vertex_words_, vertex_words_, key);
    if (mesh_.materials) *key = mesh_.materials[face];
  }
  void read(const uint32_t* key, WeldedMesh& out, size_t wedge) const {
    ++key;
    if (mesh_.normals) decode_normal(*key++, &out.normals[3 * wedge]);
    for (int c = 0; mesh_.uvs && c < 2; ++c) out.uvs[2 * wedge + c] = decode_uv(int32_t(*key++), uv_step_);
    if (mesh_.colors) unpack_color(*key++, &out.colors[4 * wedge]);
    if (mesh_.materials) out.materials[wedge] = *key++;
  }
  void resize(WeldedMesh& out, size_t wedges) const {
    if (mesh_.normals) out.normals.resize(3 * wedges);
    if (mesh_.uvs) out.uvs.resize(2 * wedges);
    if (mesh_.colors) out.colors.resize(4 * wedges);
    if (mesh_.materials) out.materials.resize(wedges);
  }

 private:
  const MeshInput& mesh_;
  float uv_step_;
  int vertex_words_;             // of a key
  std::vector<uint32_t> words_;  // (vertices, vertex_words_)
};

// Equal positions find each other in one table that all threads fill: a slot belongs to whichever vertex
// comes first, so the vertex that stands for a position may differ from run to run. Numbers by use do not.
class SharedTable {
 public:
  explicit SharedTable(size_t expected) {
    size_t size = 64;
    while (size < expected * 2) size *= 2;
    slots_.assign(size, none);
  }
  // A vertex with the grid point of `vertex`: the same one for all of them.
  uint32_t representative(uint32_t vertex, const int32_t* grid) {
    const int32_t* key = grid + 3 * size_t(vertex);
    uint64_t h = 0x9e3779b97f4a7c15ull;
    for (int a = 0; a < 3; ++a) {
      h = (h ^ static_cast<uint32_t>(key[a])) * 0xff51afd7ed558ccdull;
      h ^= h >> 32;
    }
    for (size_t slot = h & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
      uint32_t owner = none;
      if (__atomic_compare_exchange_n(&slots_[slot], &owner, vertex, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED))
        return vertex;
      if (std::memcmp(grid + 3 * size_t(owner), key, 3 * sizeof(int32_t)) == 0) return owner;
    }
  }

 private:
  std::vector<uint32_t> slots_;
};

// The position id of each vertex, by first use in the faces: a welded mesh and the same mesh with every
// corner apart become the same arrays. `points` receives three integers for each position in use.
std::vector<uint32_t> weld_positions(const MeshInput& mesh, const Grid& grid, int threads,
                                     std::vector<int32_t>& points) {
  const double inverse = 1 / double(grid.step);  // exact: a power of two
  std::vector<int32_t> snapped(size_t(mesh.vertex_count) * 3);
  std::vector<uint32_t> position(mesh.vertex_count);
  native::parallel_for(mesh.vertex_count, 1 << 15, threads, [&](int64_t first, int64_t last) {
    for (int64_t v = first; v < last; ++v)
      for (int a = 0; a < 3; ++a) {
        const double x = mesh.coordinate(3 * v + a);
        snapped[3 * v + a] = std::isfinite(x) ? snap(x, grid.origin[a], inverse) : 0;
      }
  });
  SharedTable table(mesh.vertex_count);
  native::parallel_for(mesh.vertex_count, 1 << 15, threads, [&](int64_t first, int64_t last) {
    for (int64_t v = first; v < last; ++v)
      position[v] = table.representative(static_cast<uint32_t>(v), snapped.data());
  });
  std::vector<uint32_t> number(mesh.vertex_count, none);
  points.reserve(snapped.size());
  for (int64_t i = 0; i < mesh.face_count * 3; ++i) {
    const size_t owner = position[mesh.faces[i]];
    if (number[owner] != none) continue;
    number[owner] = static_cast<uint32_t>(points.size() / 3);
    points.insert(points.end(), &snapped[3 * owner], &snapped[3 * owner] + 3);
  }
  native::parallel_for(mesh.vertex_count, 1 << 16, threads, [&](int64_t first, int64_t last) {
    for (int64_t v = first; v < last; ++v) position[v] = number[position[v]];
  });
  return position;
}

bool has_area(const std::vector<int32_t>& grid, uint32_t a, uint32_t b, uint32_t c) {
  int64_t u[3], v[3];
  for (int i = 0; i < 3; ++i) {
    u[i] = int64_t(grid[3 * size_t(b) + i]) - grid[3 * size_t(a) + i];
    v[i] = int64_t(grid[3 * size_t(c) + i]) - grid[3 * size_t(a) + i];
  }
  return u[1] * v[2] != u[2] * v[1] || u[2] * v[0] != u[0] * v[2] || u[0] * v[1] != u[1] * v[0];
}

// Faces as position ids; a face with two corners on one grid point becomes `none`. Returns whether any
// face has an area.
bool faces_of_positions(const MeshInput& mesh, const std::vector<uint32_t>& position,
                        const std::vector<int32_t>& grid, int threads, std::vector<uint32_t>& faces) {
  faces.resize(size_t(mesh.face_count) * 3);
  std::atomic<bool> area{false};
  native::parallel_for(mesh.face_count, 1 << 15, threads, [&](int64_t first, int64_t last) {
    bool found = false;
    for (int64_t f = first; f < last; ++f) {
      const uint32_t* v = mesh.faces + 3 * f;
      uint32_t* p = &faces[3 * size_t(f)];
      for (int c = 0; c < 3; ++c) p[c] = position[v[c]];
      if (p[0] == p[1] || p[1] == p[2] || p[2] == p[0])
        p[0] = none;
      else
        found = found || has_area(grid, p[0], p[1], p[2]);
    }
    if (found) area = true;
  });
  return area;
}

std::vector<uint8_t> locked_positions(const MeshInput& mesh, const std::vector<uint32_t>& position,
                                      uint32_t count) {
  std::vector<uint8_t> locked(count, 0);
  for (int64_t i = 0; i < mesh.face_count * 3; ++i)
    if (mesh.lock[mesh.faces[i]]) locked[position[mesh.faces[i]]] = 1;
  return locked;
}

uint32_t scrambled(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// Positions on open borders take the floats of the source. Around an inner vertex every neighbour follows
// once and precedes once, so the sum over its triangles of (next - previous) is zero.
void keep_borders(const MeshInput& mesh, const std::vector<uint32_t>& position, const WeldedMesh& welded,
                  std::vector<float>& floats) {
  for (double o : welded.grid.origin)
    if (o != 0) return;
  std::vector<uint32_t> sum(welded.position_count, 0);
  for (size_t i = 0; i < welded.faces.size(); i += 3)
    for (int c = 0; c < 3; ++c)
      sum[welded.faces[i + c]] +=
          scrambled(welded.faces[i + (c + 1) % 3]) - scrambled(welded.faces[i + (c + 2) % 3]);
  std::vector<uint8_t> seen(welded.position_count, 0);
  for (uint32_t f : welded.source)
    for (int c = 0; c < 3; ++c) {
      const uint32_t v = mesh.faces[3 * size_t(f) + c], p = position[v];
      if (sum[p] == 0) continue;
      float own[3];
      for (int a = 0; a < 3; ++a) own[a] = static_cast<float>(mesh.coordinate(3 * int64_t(v) + a)) + 0.0f;
      float* kept = &floats[3 * size_t(p)];
      bool same_point = true;  // a double that is rounded to float may fall nearer to another one
      for (int a = 0; a < 3; ++a)
        same_point = same_point && std::nearbyint(double(own[a]) / double(welded.grid.step)) ==
                                       std::nearbyint(double(kept[a]) / double(welded.grid.step));
      if (!same_point) continue;
      // of several floats on one grid point the least, whichever triangle comes first
      if (!seen[p] || std::lexicographical_compare(own, own + 3, kept, kept + 3)) std::copy_n(own, 3, kept);
      seen[p] = 1;
    }
}

float farthest_snap(const MeshInput& mesh, const std::vector<uint32_t>& position, const Grid& grid,
                    const std::vector<float>& floats, int threads) {
  const int64_t runs = (mesh.face_count + run_faces - 1) / run_faces;
  std::vector<double> farthest(runs, 0);
  native::parallel_for(runs, 16, threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t i = r * run_faces * 3; i < std::min(mesh.face_count, (r + 1) * run_faces) * 3; ++i) {
        double square = 0;
        for (int a = 0; a < 3; ++a) {
          const double d = mesh.coordinate(3 * int64_t(mesh.faces[i]) + a) - grid.origin[a] -
                           floats[3 * size_t(position[mesh.faces[i]]) + a];
          square += d * d;
        }
        farthest[r] = std::max(farthest[r], square);
      }
  });
  return static_cast<float>(std::sqrt(*std::max_element(farthest.begin(), farthest.end())) * (1 + 1e-6));
}

// Gives each corner its wedge, in the order of first use.
void split_wedges(const MeshInput& mesh, const std::vector<float>& points, int threads, WeldedMesh& out) {
  if (mesh.uvs) out.uv_step = uv_step(mesh);
  const WedgeKeys wedge_keys(mesh, out.uv_step, threads);
  const size_t width = wedge_keys.width();
  std::vector<uint32_t> keys;
  KeyTable wedges(mesh.vertex_count, wedge_keys.width());
  for (size_t f = 0; f < out.source.size(); ++f)
    for (int c = 0; c < 3; ++c) {
      uint32_t key[WedgeKeys::max_width];
      uint32_t& corner = out.faces[3 * f + c];
      wedge_keys.write(corner, mesh.faces[3 * size_t(out.source[f]) + c], out.source[f], key);
      corner = wedges.find_or_add(key, keys);
    }
  const size_t count = keys.size() / width;
  out.positions.resize(3 * count);
  out.position_of.resize(count);
  wedge_keys.resize(out, count);
  native::parallel_for(count, 1 << 15, threads, [&](int64_t first, int64_t last) {
    for (int64_t w = first; w < last; ++w) {
      const size_t p = out.position_of[w] = keys[w * width];
      for (int a = 0; a < 3; ++a) out.positions[3 * w + a] = points[3 * p + a];
      wedge_keys.read(&keys[w * width], out, w);
    }
  });
}

}  // namespace

bool is_facetted(const MeshInput& mesh, int threads) {
  if (mesh.normals == nullptr) return false;
  std::atomic<bool> facetted{true};
  native::parallel_for(mesh.face_count, 1 << 14, threads, [&](int64_t first, int64_t last) {
    for (int64_t f = first; f < last && facetted; ++f) {
      const uint32_t* v = mesh.faces + 3 * f;
      double u[3], w[3];
      for (int a = 0; a < 3; ++a) {
        u[a] = mesh.coordinate(3 * int64_t(v[1]) + a) - mesh.coordinate(3 * int64_t(v[0]) + a);
        w[a] = mesh.coordinate(3 * int64_t(v[2]) + a) - mesh.coordinate(3 * int64_t(v[0]) + a);
      }
      const double n[3] = {u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]};
      const double area = std::sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
      for (int c = 0; c < 3 && area > 0; ++c) {
        const float* m = mesh.normals + 3 * size_t(v[c]);
        const double length = std::sqrt(double(m[0]) * m[0] + double(m[1]) * m[1] + double(m[2]) * m[2]);
        if (n[0] * m[0] + n[1] * m[1] + n[2] * m[2] < facet_cosine * area * length) facetted = false;
      }
    }
  });
  return facetted;
}

void WeldedMesh::add_wedge(uint32_t base, uint32_t material) {
  auto repeat = [&](auto& values, int width) {
    for (int i = 0; i < width && !values.empty(); ++i) values.push_back(values[size_t(base) * width + i]);
  };
  repeat(positions, 3), repeat(position_of, 1), repeat(normals, 3), repeat(uvs, 2), repeat(colors, 4);
  materials.push_back(material);
}

WeldedMesh weld(const MeshInput& mesh, const Grid& grid, int threads) {
  WeldedMesh out;
  out.grid = grid;
  std::vector<int32_t> points;
  std::vector<uint32_t> position = weld_positions(mesh, grid, threads, points);
  out.position_count = static_cast<uint32_t>(points.size() / 3);
  const bool area = faces_of_positions(mesh, position, points, threads, out.faces);
  native::demand(area, [&] {
    return "build: all " + std::to_string(mesh.face_count) +
           " triangles are degenerate on the mesh grid (step " + text_of(grid.step) +
           "); raise position_bits if the mesh is finer than that";
  });
  out.source.reserve(mesh.face_count);
  for (int64_t f = 0; f < mesh.face_count; ++f) {
    if (out.faces[3 * f] == none) {
      ++(source_has_area(mesh, f) ? out.vanished : out.degenerate);
      continue;
    }
    if (int64_t(out.source.size()) < f) std::copy_n(&out.faces[3 * f], 3, &out.faces[3 * out.source.size()]);
    out.source.push_back(static_cast<uint32_t>(f));
  }
  out.faces.resize(out.source.size() * 3);
  if (mesh.lock) out.locked = locked_positions(mesh, position, out.position_count);

  std::vector<float> floats(points.size());
  native::parallel_for(points.size(), 1 << 17, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) floats[i] = float(points[i]) * grid.step;
  });
  points = {};
  keep_borders(mesh, position, out, floats);
  out.snap = farthest_snap(mesh, position, grid, floats, threads);
  position = {};
  if (mesh.normals || mesh.uvs || mesh.colors || mesh.materials)
    split_wedges(mesh, floats, threads, out);
  else
    out.positions = std::move(floats);
  float largest = 0;
  for (float p : out.positions) largest = std::max(largest, std::fabs(p));
  out.unit = static_cast<float>(1 / power_of_two_below(largest));
  return out;
}

}  // namespace nanite_cull
