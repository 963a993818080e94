#include "build/weld.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>

#include "build/key_table.h"
#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr int grid_bits = 24;           // integers up to 2^24 are exact in float
constexpr float least_step = 0x1p-99f;  // of both grids: a power of two whose inverse is a float too
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

void check_finite(const float* values, int64_t count, int width, const char* what, int threads) {
  if (values == nullptr) return;
  native::parallel_for(count * width, 1 << 18, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      native::demand(std::isfinite(values[i]), [&] {
        return std::string("build: ") + what + " must be finite, got " + std::to_string(values[i]) +
               " at vertex " + std::to_string(i / width) + "; remove or repair that vertex";
      });
  });
}

float power_of_two_below(double x) { return static_cast<float>(std::exp2(std::floor(std::log2(x)))); }

// The first percentile of the edges of a sample of faces; zero edges do not count.
double short_edge(const MeshInput& mesh) {
  std::vector<double> lengths;
  const int64_t stride = std::max<int64_t>(1, mesh.face_count / sample_size);
  for (int64_t f = 0; f < mesh.face_count; f += stride)
    for (int c = 0; c < 3; ++c) {
      const float* a = mesh.positions + 3 * size_t(mesh.faces[3 * f + c]);
      const float* b = mesh.positions + 3 * size_t(mesh.faces[3 * f + (c + 1) % 3]);
      const double x = double(a[0]) - b[0], y = double(a[1]) - b[1], z = double(a[2]) - b[2];
      const double length = std::sqrt(x * x + y * y + z * z);
      if (length > 0) lengths.push_back(length);
    }
  if (lengths.empty()) return 0;
  auto rank = lengths.begin() + static_cast<ptrdiff_t>(lengths.size() / 100);
  std::nth_element(lengths.begin(), rank, lengths.end());
  return *rank;
}

uint32_t quantize(float value, double step) {
  return static_cast<uint32_t>(static_cast<int32_t>(std::llrint(double(value) / step)));
}

}  // namespace

namespace {

constexpr int normal_scale = (1 << (normal_bits - 1)) - 1;

// Octahedral map of a direction to two integers (Meyer et al., "On Floating-Point Normal
// Vectors", 2010); a zero vector becomes +z.
uint32_t octahedral_code(const float* n) {
  const double x = n[0], y = n[1], z = n[2], sum = std::fabs(x) + std::fabs(y) + std::fabs(z);
  double u = sum > 0 ? x / sum : 0, v = sum > 0 ? y / sum : 0;
  if (z < 0) {
    const double fold_u = (1 - std::fabs(v)) * (u < 0 ? -1 : 1);
    v = (1 - std::fabs(u)) * (v < 0 ? -1 : 1);
    u = fold_u;
  }
  return static_cast<uint32_t>(std::lrint(u * normal_scale) + normal_scale) |
         static_cast<uint32_t>(std::lrint(v * normal_scale) + normal_scale) << normal_bits;
}

}  // namespace

uint32_t encode_normal(const float* normal) {
  uint32_t code = octahedral_code(normal);
  for (int i = 0; i < 4; ++i) {  // on a fold two codes mean one direction: take the one that comes back
    float decoded[3];
    decode_normal(code, decoded);
    const uint32_t again = octahedral_code(decoded);
    if (again == code) break;
    code = again;
  }
  return code;
}

void decode_normal(uint32_t code, float* n) {
  const float u = (float(code & normal_mask) - normal_scale) / normal_scale,
              v = (float(code >> normal_bits & normal_mask) - normal_scale) / normal_scale;
  float x = u, y = v;
  const float z = 1 - std::fabs(u) - std::fabs(v);
  if (z < 0) {
    x = (1 - std::fabs(v)) * (u < 0 ? -1.0f : 1.0f);
    y = (1 - std::fabs(u)) * (v < 0 ? -1.0f : 1.0f);
  }
  const float length = std::sqrt(x * x + y * y + z * z);
  n[0] = x / length, n[1] = y / length, n[2] = z / length;
}

float uv_step(const float* uvs, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count * 2; ++i) largest = std::max(largest, std::fabs(uvs[i]));
  native::demand(largest < 1e18f, [&] {
    return "build: uvs must lie within 1e18 of zero, got " + std::to_string(largest) + "; scale them";
  });
  return largest > 0 ? std::max(power_of_two_below(largest) / 65536, least_step) : 1;
}

namespace {

void unpack_color(uint32_t code, float* color) {
  for (int c = 0; c < 4; ++c) color[c] = float(code >> (8 * c) & 255) / 255;
}

uint32_t pack_color(const float* color) {
  uint32_t code = 0;
  for (int c = 0; c < 4; ++c)
    code |= static_cast<uint32_t>(std::lrint(std::clamp(color[c], 0.0f, 1.0f) * 255)) << (8 * c);
  return code;
}

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
        for (int c = 0; mesh.uvs && c < 2; ++c) *word++ = quantize(mesh.uvs[2 * v + c], step);
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
    for (int c = 0; mesh_.uvs && c < 2; ++c) out.uvs[2 * wedge + c] = float(int32_t(*key++)) * uv_step_;
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
// corner apart become the same arrays. `grid` receives three integers for each position in use.
std::vector<uint32_t> weld_positions(const MeshInput& mesh, float step, int threads,
                                     std::vector<int32_t>& grid) {
  const float inverse = 1 / step;  // exact: a power of two
  std::vector<int32_t> points(size_t(mesh.vertex_count) * 3);
  std::vector<uint32_t> position(mesh.vertex_count);
  native::parallel_for(points.size(), 1 << 17, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      points[i] = static_cast<int32_t>(std::lrint(mesh.positions[i] * inverse));
  });
  SharedTable table(mesh.vertex_count);
  native::parallel_for(mesh.vertex_count, 1 << 15, threads, [&](int64_t first, int64_t last) {
    for (int64_t v = first; v < last; ++v)
      position[v] = table.representative(static_cast<uint32_t>(v), points.data());
  });
  std::vector<uint32_t> number(mesh.vertex_count, none);
  grid.reserve(points.size());
  for (int64_t i = 0; i < mesh.face_count * 3; ++i) {
    const size_t owner = position[mesh.faces[i]];
    if (number[owner] != none) continue;
    number[owner] = static_cast<uint32_t>(grid.size() / 3);
    grid.insert(grid.end(), &points[3 * owner], &points[3 * owner] + 3);
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

}  // namespace

float grid_step(const MeshInput& mesh, int bits, int threads) {
  check_input(mesh, threads);
  check_finite(mesh.positions, mesh.vertex_count, 3, "vertices", threads);
  check_finite(mesh.normals, mesh.vertex_count, 3, "normals", threads);
  check_finite(mesh.uvs, mesh.vertex_count, 2, "uvs", threads);
  check_finite(mesh.colors, mesh.vertex_count, 4, "colors", threads);
  double largest = 0, extent = 0;
  for (int a = 0; a < 3; ++a) {
    double lo = mesh.positions[a], hi = lo;
    for (int64_t v = 0; v < mesh.vertex_count; ++v) {
      lo = std::min<double>(lo, mesh.positions[3 * v + a]);
      hi = std::max<double>(hi, mesh.positions[3 * v + a]);
    }
    largest = std::max({largest, std::fabs(lo), std::fabs(hi)});
    extent = std::max(extent, hi - lo);
  }
  native::demand(largest < 1e18, [&] {
    return "build: vertices must lie within 1e18 of the origin, got " + std::to_string(largest) +
           "; scale the mesh";
  });
  const double edge = short_edge(mesh);
  native::demand(extent > 0 && edge > 0, [&] {
    return "build: all " + std::to_string(mesh.face_count) +
           " triangles are degenerate (no edge has a length)";
  });
  const float finest = std::max(power_of_two_below(largest) * std::exp2(1.0f - grid_bits), least_step);
  const double wanted = bits > 0 ? extent * std::exp2(-bits) : std::min(extent / 65536, edge / 16);
  return std::max(finest, power_of_two_below(wanted));
}

namespace {

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

// Gives each corner its wedge, in the order of first use.
void split_wedges(const MeshInput& mesh, const std::vector<int32_t>& grid, int threads, WeldedMesh& out) {
  if (mesh.uvs) out.uv_step = uv_step(mesh.uvs, mesh.vertex_count);
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
      for (int a = 0; a < 3; ++a) out.positions[3 * w + a] = float(grid[3 * p + a]) * out.step;
      wedge_keys.read(&keys[w * width], out, w);
    }
  });
}

}  // namespace

WeldedMesh weld(const MeshInput& mesh, float step, int threads) {
  WeldedMesh out;
  out.step = step;
  std::vector<int32_t> grid;
  std::vector<uint32_t> position = weld_positions(mesh, step, threads, grid);
  out.position_count = static_cast<uint32_t>(grid.size() / 3);
  const bool area = faces_of_positions(mesh, position, grid, threads, out.faces);
  native::demand(area, [&] {
    return "build: all " + std::to_string(mesh.face_count) +
           " triangles are degenerate on the mesh grid (step " + std::to_string(step) +
           "); raise position_bits if the mesh is finer than that";
  });
  position = {};
  out.source.reserve(mesh.face_count);
  for (int64_t f = 0; f < mesh.face_count; ++f) {
    if (out.faces[3 * f] == none) continue;
    if (int64_t(out.source.size()) < f) std::copy_n(&out.faces[3 * f], 3, &out.faces[3 * out.source.size()]);
    out.source.push_back(static_cast<uint32_t>(f));
  }
  out.degenerate = mesh.face_count - out.source.size();
  out.faces.resize(out.source.size() * 3);

  if (mesh.normals || mesh.uvs || mesh.colors || mesh.materials) {
    split_wedges(mesh, grid, threads, out);
  } else {
    out.positions.resize(grid.size());
    native::parallel_for(grid.size(), 1 << 17, threads, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) out.positions[i] = float(grid[i]) * step;
    });
  }
  float largest = 0;
  for (float p : out.positions) largest = std::max(largest, std::fabs(p));
  out.unit = 1 / power_of_two_below(largest);
  return out;
}

}  // namespace nanite_cull
