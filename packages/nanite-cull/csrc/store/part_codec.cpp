#include "store/part_codec.h"

#include <cmath>
#include <cstring>

#include "build/meshopt_api.h"
#include "build/weld.h"
#include "store/ncl_format.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace nanite_cull {

namespace {

constexpr int block = 16;       // differences of one width
constexpr int width_bits = 6;   // of that width: 0 to 32
constexpr size_t padding = 8;   // zero bytes behind the bits
constexpr int window = 16;      // triangles that are searched for the one across an edge
constexpr uint8_t nobody = 255; // no local vertex has this number

// 0, -1, 1, -2, ... to 0, 1, 2, 3, ...
uint32_t fold(uint32_t x) { return x << 1 ^ (x >> 31 ? 0xffffffffu : 0); }
uint32_t unfold(uint32_t x) { return x >> 1 ^ (0u - (x & 1)); }

// What predicts each vertex of a cluster: a + b - c modulo 2^32, all three before it. Across an edge where the
// triangle behind it is among the last `window`; else an earlier corner, or the vertex before.
struct Predictors {
  uint8_t a[256], b[256], c[256];

  void set(int v, int from) { a[v] = b[v] = c[v] = static_cast<uint8_t>(from); }

  Predictors(const uint8_t* triangles, int count, int vertices) {
    uint8_t corner[3][window + max_cluster_triangles], seen[256] = {};
    for (auto& column : corner) std::memset(column, nobody, window);
    for (int v = 0; v < vertices; ++v) set(v, v > 0 ? v - 1 : 0);
    for (int t = 0; t < count; ++t) {
      const uint8_t* v = triangles + 3 * t;
      for (int i = 0; i < 3; ++i) {
        corner[i][window + t] = v[i];
        if (seen[v[i]]) continue;
        seen[v[i]] = 1;
        add(v[i], v[i == 2 ? 0 : i + 1], v[i == 0 ? 2 : i - 1], corner, t);
      }
    }
  }

 private:
  void add(int v, int p, int q, const uint8_t (*corner)[window + max_cluster_triangles], int t) {
    if (p >= v || q >= v) {
      if (p < v || q < v) set(v, p < v ? p : q);
      return;
    }
    set(v, p);
    const int at = behind_edge(corner, t, p, q);
    if (at < 0) return;
    const int r = corner[0][at] ^ corner[1][at] ^ corner[2][at] ^ p ^ q;
    if (r < v) b[v] = static_cast<uint8_t>(q), c[v] = static_cast<uint8_t>(r);
  }
  // The last of the `window` triangles before t that has both corners; -1: none.
  static int behind_edge(const uint8_t (*corner)[window + max_cluster_triangles], int t, int p, int q) {
#if defined(__SSE2__)
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(corner[0] + t)),
                  y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(corner[1] + t)),
                  z = _mm_loadu_si128(reinterpret_cast<const __m128i*>(corner[2] + t));
    auto has = [&](int vertex) {
      const __m128i v = _mm_set1_epi8(static_cast<char>(vertex));
      return _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(x, v), _mm_cmpeq_epi8(y, v)), _mm_cmpeq_epi8(z, v));
    };
    const unsigned both = static_cast<unsigned>(_mm_movemask_epi8(_mm_and_si128(has(p), has(q))));
    return both ? t + 31 - __builtin_clz(both) : -1;
#else
    for (int at = t + window - 1; at >= t; --at) {
      auto has = [&](int v) { return corner[0][at] == v || corner[1][at] == v || corner[2][at] == v; };
      if (has(p) && has(q)) return at;
    }
    return -1;
#endif
  }
};

class BitWriter {
 public:
  explicit BitWriter(std::vector<uint8_t>& bytes) : bytes_(bytes) {}
  void put(uint64_t value, int count) {  // at most 32
    held_ |= value << used_, used_ += count;
    for (; used_ >= 8; used_ -= 8, held_ >>= 8) bytes_.push_back(static_cast<uint8_t>(held_));
  }
  void finish() {
    if (used_ > 0) bytes_.push_back(static_cast<uint8_t>(held_));
    bytes_.insert(bytes_.end(), padding, 0);
  }

 private:
  std::vector<uint8_t>& bytes_;
  uint64_t held_ = 0;
  int used_ = 0;
};

// Whole words at any bit; the caller keeps within the end.
class BitReader {
 public:
  BitReader(const uint8_t* data, size_t size) : data_(data), end_(8 * (size - padding)) {}
  uint32_t take(int count) {  // at most 32
    const uint32_t value = static_cast<uint32_t>(word() & ((uint64_t(1) << count) - 1));
    at_ += count;
    return value;
  }
  // `count` numbers of `width` bits each.
  void take(int width, int count, uint32_t* out) {
    const uint64_t mask = (uint64_t(1) << width) - 1;
    for (int i = 0; i < count; ++i, at_ += width) out[i] = static_cast<uint32_t>(word() & mask);
  }
  bool has(size_t bits) const { return at_ + bits <= end_; }

 private:
  uint64_t word() const {
    uint64_t value;
    std::memcpy(&value, data_ + (at_ >> 3), 8);
    return value >> (at_ & 7);
  }
  const uint8_t* data_;
  size_t end_, at_ = 0;
};

void encode_component(const int32_t* values, int count, int stride, const Predictors& by, BitWriter& out) {
  uint32_t differences[256];
  auto value = [&](int v) { return static_cast<uint32_t>(values[v * stride]); };
  differences[0] = 0;
  for (int v = 1; v < count; ++v)
    differences[v] = fold(value(v) - (value(by.a[v]) + value(by.b[v]) - value(by.c[v])));
  out.put(value(0), 32);
  for (int first = 0; first < count; first += block) {
    const int last = std::min(count, first + block);
    uint32_t all = 0;
    for (int v = first; v < last; ++v) all |= differences[v];
    const int width = all ? 32 - __builtin_clz(all) : 0;
    out.put(width, width_bits);
    for (int v = first; v < last; ++v) out.put(differences[v], width);
  }
}

bool decode_component(int32_t* values, int count, int stride, const Predictors& by, BitReader& in) {
  uint32_t differences[256 + block];
  if (!in.has(32)) return false;
  const uint32_t base = in.take(32);
  for (int first = 0; first < count; first += block) {
    if (!in.has(width_bits)) return false;
    const int width = static_cast<int>(in.take(width_bits)), size = std::min(block, count - first);
    if (width > 32 || !in.has(size_t(width) * size)) return false;
    in.take(width, size, differences + first);
  }
  values[0] = static_cast<int32_t>(base + unfold(differences[0]));
  auto value = [&](int v) { return static_cast<uint32_t>(values[v * stride]); };
  for (int v = 1; v < count; ++v)
    values[v * stride] =
        static_cast<int32_t>(value(by.a[v]) + value(by.b[v]) - value(by.c[v]) + unfold(differences[v]));
  return true;
}

uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

int32_t grid_point(float x, float step) { return static_cast<int32_t>(std::lrint(double(x) / step)); }

}  // namespace

VertexLayout::VertexLayout(uint32_t flags)
    : exact_(flags & has_exact),
      normals_(flags & has_normals),
      uvs_(flags & has_uvs),
      colors_(flags & has_colors),
      materials_(flags & has_materials) {}

void VertexLayout::read(const Asset& asset, uint32_t vertex, int32_t* out) const {
  const float* p = &asset.positions[3 * size_t(vertex)];
  for (int a = 0; a < 3; ++a) *out++ = grid_point(p[a], asset.step);
  for (int a = 0; exact_ && a < 3; ++a, ++out)
    *out = static_cast<int32_t>(float_bits(p[a]) - float_bits(float(out[-3]) * asset.step));
  if (normals_) {
    const uint32_t code = encode_normal(&asset.normals[3 * size_t(vertex)]);
    *out++ = code & normal_mask, *out++ = code >> normal_bits & normal_mask;
  }
  for (int a = 0; uvs_ && a < 2; ++a) *out++ = encode_uv(asset.uvs[2 * size_t(vertex) + a], asset.uv_step);
  for (int a = 0; colors_ && a < 4; ++a)
    *out++ = static_cast<int32_t>(std::lrint(asset.colors[4 * size_t(vertex) + a] * 255));
  if (materials_) *out++ = static_cast<int32_t>(asset.materials[vertex]);
}

bool VertexLayout::append(const int32_t* values, Asset& asset) const {
  for (int a = 0; a < 3; ++a, ++values) {
    if (*values < -(1 << 24) || *values > 1 << 24) return false;
    const float grid = float(*values) * asset.step;
    float kept = grid;
    if (exact_) {
      const uint32_t bits = float_bits(grid) + static_cast<uint32_t>(values[3]);
      std::memcpy(&kept, &bits, 4);
      if (!(std::fabs(kept - grid) <= asset.step)) return false;
    }
    asset.positions.push_back(kept);
  }
  if (exact_) values += 3;
  if (normals_) {
    constexpr int32_t largest = normal_mask - 1;
    if (values[0] < 0 || values[0] > largest || values[1] < 0 || values[1] > largest) return false;
    float normal[3];
    decode_normal(uint32_t(values[0]) | uint32_t(values[1]) << normal_bits, normal);
    asset.normals.insert(asset.normals.end(), normal, normal + 3);
    values += 2;
  }
  for (int a = 0; uvs_ && a < 2; ++a) asset.uvs.push_back(decode_uv(*values++, asset.uv_step));
  for (int a = 0; colors_ && a < 4; ++a, ++values) {
    if (*values < 0 || *values > 255) return false;
    asset.colors.push_back(float(*values) / 255);
  }
  if (materials_) asset.materials.push_back(static_cast<uint32_t>(*values));
  return true;
}

void VertexLayout::reserve(size_t vertices, Asset& asset) const {
  asset.positions.reserve(3 * vertices);
  if (normals_) asset.normals.reserve(3 * vertices);
  if (uvs_) asset.uvs.reserve(2 * vertices);
  if (colors_) asset.colors.reserve(4 * vertices);
  if (materials_) asset.materials.reserve(vertices);
}

bool has_exact_floats(const Asset& asset) {
  for (float p : asset.positions)
    if (float(grid_point(p, asset.step)) * asset.step != p) return true;
  return false;
}

std::vector<uint8_t> encode_part(const Asset& asset, uint32_t cluster_begin, uint32_t clusters,
                                 const VertexLayout& layout) {
  std::vector<uint8_t> out;
  std::vector<uint32_t> indices;
  uint32_t base = 0;
  const Cluster *first = &asset.clusters[cluster_begin], *last = first + clusters;
  for (const Cluster* c = first; c < last; ++c) {
    out.push_back(static_cast<uint8_t>(c->vertex_count));
    out.push_back(static_cast<uint8_t>(c->triangle_count));
    const uint8_t* corner = &asset.triangles[3 * size_t(c->triangle_begin)];
    for (int i = 0; i < 3 * c->triangle_count; ++i) indices.push_back(base + corner[i]);
    base += c->vertex_count;
  }
  std::vector<unsigned char> coded(meshopt().encode_index_bound(indices.size(), base));
  coded.resize(meshopt().encode_index(coded.data(), coded.size(), indices.data(), indices.size()));
  const uint32_t size = static_cast<uint32_t>(coded.size());
  out.insert(out.end(), reinterpret_cast<const uint8_t*>(&size), reinterpret_cast<const uint8_t*>(&size + 1));
  out.insert(out.end(), coded.begin(), coded.end());

  BitWriter bits(out);
  std::vector<int32_t> vertices;
  const int width = layout.width();
  for (const Cluster* c = first; c < last; ++c) {
    vertices.resize(size_t(c->vertex_count) * width);
    for (int v = 0; v < c->vertex_count; ++v)
      layout.read(asset, asset.vertex_refs[c->vertex_begin + v], &vertices[size_t(v) * width]);
    const Predictors by(&asset.triangles[3 * size_t(c->triangle_begin)], c->triangle_count, c->vertex_count);
    for (int k = 0; k < width; ++k) encode_component(&vertices[k], c->vertex_count, width, by, bits);
  }
  bits.finish();
  return out;
}

bool decode_triangles(const uint8_t* data, size_t size, DecodedPart& out, std::string& why) {
  size_t triangles = 0;
  for (uint8_t count : out.triangle_counts) triangles += count;
  std::vector<uint16_t> indices(triangles * 3);
  if (meshopt().decode_index(indices.data(), indices.size(), 2, data, size) != 0) {
    why = "has indices that cannot be decoded";
    return false;
  }
  out.triangles.resize(triangles * 3);
  const uint16_t* v = indices.data();
  uint8_t* to = out.triangles.data();
  uint32_t base = 0, outside = 0;
  for (size_t c = 0; c < out.triangle_counts.size(); ++c) {
    const uint32_t count = out.vertex_counts[c];
    for (int t = 0; t < out.triangle_counts[c]; ++t, v += 3, to += 3) {
      const uint32_t p = v[0] - base, q = v[1] - base, r = v[2] - base;
      outside |= (p >= count) | (q >= count) | (r >= count);
      // the codec may turn a triangle: back to the smallest local index first
      const bool second = q < p && q < r, third = !second && r < p && r < q;
      to[0] = static_cast<uint8_t>(second ? q : third ? r : p);
      to[1] = static_cast<uint8_t>(second ? r : third ? p : q);
      to[2] = static_cast<uint8_t>(second ? p : third ? q : r);
    }
    base += count;
  }
  if (outside) why = "has an index outside its cluster";
  return !outside;
}

bool decode_part(const uint8_t* data, size_t size, uint32_t clusters, const VertexLayout& layout,
                 DecodedPart& out, std::string& why) {
  auto fail = [&](const char* text) {
    why = text;
    return false;
  };
  const size_t header = 2 * size_t(clusters) + 4;
  if (size < header + padding) return fail("is shorter than its header");
  if (clusters > most_part_clusters) return fail("has too many clusters");
  out.vertex_counts.clear(), out.triangle_counts.clear();
  size_t vertices = 0;
  for (uint32_t c = 0; c < clusters; ++c) {
    out.vertex_counts.push_back(data[2 * c]);
    out.triangle_counts.push_back(data[2 * c + 1]);
    if (data[2 * c] < 3 || data[2 * c + 1] < 1 || data[2 * c + 1] > max_cluster_triangles)
      return fail("has a cluster of an impossible size");
    vertices += data[2 * c];
  }
  if (vertices > UINT16_MAX) return fail("has too many vertices");
  uint32_t coded;
  std::memcpy(&coded, data + header - 4, 4);
  if (coded > size - header - padding) return fail("has an index part that is longer than itself");
  if (!decode_triangles(data + header, coded, out, why)) return false;

  BitReader bits(data + header + coded, size - header - coded);
  const int width = layout.width();
  out.vertices.resize(vertices * width);
  int32_t* into = out.vertices.data();
  const uint8_t* triangle = out.triangles.data();
  for (uint32_t c = 0; c < clusters; ++c) {
    const int count = out.vertex_counts[c];
    const Predictors by(triangle, out.triangle_counts[c], count);
    for (int k = 0; k < width; ++k)
      if (!decode_component(into + k, count, width, by, bits)) return fail("has vertices that cannot be decoded");
    triangle += 3 * out.triangle_counts[c], into += count * width;
  }
  return true;
}

}  // namespace nanite_cull
