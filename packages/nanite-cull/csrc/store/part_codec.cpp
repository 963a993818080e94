#include "store/part_codec.h"

#include <cmath>
#include <cstring>
#include <unordered_map>

#include "build/vertex_codes.h"
#include "store/ncl_format.h"

namespace nanite_cull {

namespace {

constexpr int block = 8;                    // differences of one width
constexpr int width_bits = 6;               // of that width: 0 to 32
constexpr uint32_t zeros = 63;              // in its place before the first value: all values are zero
constexpr size_t padding = 8;               // zero bytes behind the bits
constexpr int near_bits = 3, far_bits = 7;  // of the number of an edge: the seven newest, or any
constexpr uint32_t far_edge = (1 << near_bits) - 1, no_edge = (1 << far_bits) - 1;

// 0, -1, 1, -2, ... to 0, 1, 2, 3, ...
uint32_t fold(uint32_t x) { return x << 1 ^ (x >> 31 ? 0xffffffffu : 0); }
uint32_t unfold(uint32_t x) { return x >> 1 ^ (0u - (x & 1)); }

int bit_length(uint32_t x) { return x ? 32 - __builtin_clz(x) : 0; }

// What the triangles of a cluster have left behind: their edges, newest last, and for each vertex what
// predicts it: a + b - c modulo 2^32, all three before it, across the edge over which it was reached.
struct Walk {
  struct Edge {
    uint8_t from, to, behind;  // behind: the corner across
  };
  Edge edges[3 * max_cluster_triangles];
  int edge_count = 0;
  uint32_t next = 0;               // vertices so far
  uint8_t a[257], b[257], c[257];  // the last: of no vertex

  Walk() {
    for (int v = 0; v < 256; ++v) a[v] = b[v] = c[v] = static_cast<uint8_t>(v > 0 ? v - 1 : 0);
  }
  void add(uint8_t from, uint8_t to, uint8_t behind) { edges[edge_count++] = {from, to, behind}; }
  void reach(uint32_t vertex, const Edge& over) {
    a[vertex] = over.from, b[vertex] = over.to, c[vertex] = over.behind;
  }
  // A triangle that no edge leads to.
  void start(const uint32_t* v) {
    for (int i = 0; i < 3; ++i) {
      next = std::max(next, v[i] + 1);
      add(static_cast<uint8_t>(v[i]), static_cast<uint8_t>(v[(i + 1) % 3]),
          static_cast<uint8_t>(v[(i + 2) % 3]));
    }
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
  BitReader(const uint8_t* data, size_t size) : data_(data), end_(8 * size - 8 * 8 + 7) {}
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
  uint64_t peek() const { return word(); }  // at least 57 bits
  void skip(int count) { at_ += count; }
  // Whether so many bits are left. Where any position is, a whole word may be read.
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

// A triangle over an edge of one before: the number of the edge, counted from the newest, then a set bit for
// the next vertex or a clear one and which it is. Another one: no_edge, then a set bit for the next three
// vertices or a clear one and its corners.
void encode_triangle(const uint8_t* v, Walk& walk, BitWriter& out) {
  for (int number = 0; number < std::min<int>(walk.edge_count, no_edge); ++number) {
    const Walk::Edge edge = walk.edges[walk.edge_count - 1 - number];
    for (int i = 0; i < 3; ++i) {
      const uint8_t p = v[i], q = v[(i + 1) % 3], r = v[(i + 2) % 3];
      if (edge.from != q || edge.to != p || r > walk.next || r == p || r == q) continue;
      if (uint32_t(number) < far_edge)
        out.put(number, near_bits);
      else
        out.put(far_edge | uint32_t(number) << near_bits, near_bits + far_bits);
      out.put(r == walk.next, 1);
      if (r == walk.next)
        walk.reach(r, edge), ++walk.next;
      else
        out.put(r, bit_length(walk.next - 1));
      walk.add(r, p, q), walk.add(q, r, p);
      return;
    }
  }
  out.put(far_edge | no_edge << near_bits, near_bits + far_bits);
  const uint32_t n = walk.next, corners[3] = {v[0], v[1], v[2]};
  const bool all_new = v[0] == n && v[1] == n + 1 && v[2] == n + 2;
  out.put(all_new, 1);
  for (int i = 0; i < 3 && !all_new; ++i) out.put(v[i], 8);
  walk.start(corners);
}

// Writes each triangle from its smallest corner; false for one that names a vertex from `vertices` on. What
// is as likely as not (a far edge, a new vertex) is chosen by masks: a branch on it would be foretold
// wrongly.
bool decode_triangles(uint8_t* to, int count, uint32_t vertices, Walk& walk, BitReader& in) {
  for (int t = 0; t < count; ++t, to += 3) {
    if (!in.has(0)) return false;
    const uint64_t word = in.peek();
    const uint32_t head = static_cast<uint32_t>(word), near = head & far_edge, far = 0u - (near == far_edge);
    const uint32_t number = (near & ~far) | (head >> near_bits & no_edge & far);
    int used = near_bits + (far_bits & static_cast<int>(far));
    const uint64_t rest = word >> used++;
    const uint32_t is_new = 0u - static_cast<uint32_t>(rest & 1);
    uint32_t v[3];
    if (number == no_edge) {
      for (int i = 0; i < 3; ++i) v[i] = is_new ? walk.next + i : rest >> (8 * i + 1) & 255;
      if (!is_new) used += 24;
      walk.start(v);
    } else {
      if (int(number) >= walk.edge_count) return false;
      const Walk::Edge edge = walk.edges[walk.edge_count - 1 - number];
      const int bits = bit_length(walk.next - 1);
      const uint32_t old = static_cast<uint32_t>(rest >> 1) & ((1u << bits) - 1);
      v[0] = edge.to, v[1] = edge.from, v[2] = (walk.next & is_new) | (old & ~is_new);
      used += bits & static_cast<int>(~is_new);
      walk.reach((v[2] & 255 & is_new) | (256 & ~is_new), edge);
      walk.next = std::max(walk.next, v[2] + 1);
      walk.add(v[2], edge.to, edge.from), walk.add(edge.from, v[2], edge.to);
    }
    in.skip(used);
    if (walk.next > vertices) return false;
    // without a branch that nothing foretells
    const uint32_t second = (v[1] < v[0]) & (v[1] < v[2]), third = (v[2] < v[0]) & (v[2] < v[1]);
    const uint32_t turn = 8 * second + 16 * third, corners = v[0] | v[1] << 8 | v[2] << 16;
    const uint32_t turned = corners >> turn | corners << (24 - turn);
    for (int i = 0; i < 3; ++i) to[i] = static_cast<uint8_t>(turned >> (8 * i));
  }
  return true;
}

// Which vertices of a cluster are new in its part, and where the others were first.
struct Sharing {
  uint8_t fresh[256];  // local numbers, ascending
  int fresh_count = 0;
};

// One component of a cluster's new vertices; `values` holds those of the others already. `base` is that of
// the last cluster's first vertex.
void encode_component(const int32_t* values, int count, int stride, const Sharing& sharing, const Walk& by,
                      uint32_t& base, BitWriter& out) {
  uint32_t differences[256], any = 0;
  auto value = [&](int v) { return static_cast<uint32_t>(values[v * stride]); };
  for (int v = 0; v < count; ++v) any |= value(v);
  if (any == 0) {
    out.put(zeros, width_bits);
    return;
  }
  const bool first_is_fresh = sharing.fresh_count > 0 && sharing.fresh[0] == 0;
  const uint32_t first_value = first_is_fresh ? fold(value(0) - base) : 0;
  out.put(bit_length(first_value), width_bits), out.put(first_value, bit_length(first_value));
  base = value(0);
  for (int i = 0; i < sharing.fresh_count; ++i) {
    const int v = sharing.fresh[i];
    differences[i] = v > 0 ? fold(value(v) - (value(by.a[v]) + value(by.b[v]) - value(by.c[v]))) : 0;
  }
  for (int first = 0; first < sharing.fresh_count; first += block) {
    const int last = std::min(sharing.fresh_count, first + block);
    uint32_t all = 0;
    for (int i = first; i < last; ++i) all |= differences[i];
    const int width = bit_length(all);
    out.put(width, width_bits);
    for (int i = first; i < last; ++i) out.put(differences[i], width);
  }
}

// Four components of a vertex at once; what is no component of it is ignored.
using Four = uint32_t __attribute__((vector_size(16)));
constexpr int lanes = 4, most_fours = (max_vertex_width + lanes - 1) / lanes;

// A cluster's vertices and what is stored of the new ones.
struct Components {
  Four value[most_fours][256], difference[most_fours][256 + block];  // by vertex, by place among the new ones
  Four kept[most_fours];  // all bits set where a component is stored, none where it is zero throughout

  uint32_t& of(Four* row, int component, int i) {
    return reinterpret_cast<uint32_t*>(&row[i])[component % lanes];
  }
};

// The differences of one component; the value of the cluster's first vertex, where that is new.
bool read_component(int k, const Sharing& sharing, Components& out, uint32_t base, BitReader& in) {
  Four* row = out.difference[k / lanes];
  auto width_follows = [&](uint32_t& width, int numbers) {
    if (!in.has(width_bits)) return false;
    width = in.take(width_bits);
    return width == zeros || (width <= 32 && in.has(size_t(width) * numbers));
  };
  uint32_t width;
  if (!width_follows(width, 1)) return false;
  out.of(out.kept, k, k / lanes) = width == zeros ? 0 : ~0u;
  if (width == zeros) return true;
  const uint32_t first_value = base + unfold(in.take(static_cast<int>(width)));
  for (int first = 0; first < sharing.fresh_count; first += block) {
    const int size = std::min(block, sharing.fresh_count - first);
    if (!width_follows(width, size) || width == zeros) return false;
    uint32_t numbers[block];
    in.take(static_cast<int>(width), size, numbers);
    for (int i = 0; i < size; ++i) out.of(row, k, first + i) = numbers[i];
  }
  if (sharing.fresh_count > 0 && sharing.fresh[0] == 0) out.of(out.value[k / lanes], k, 0) = first_value;
  return true;
}

// New vertices from those before them.
void predict(int fours, const Sharing& sharing, const Walk& by, Components& c) {
  for (int q = 0; q < fours; ++q) {
    Four* value = c.value[q];
    const Four kept = c.kept[q];
    int i = 0;
    if (sharing.fresh_count > 0 && sharing.fresh[0] == 0) value[0] &= kept, i = 1;
    for (; i < sharing.fresh_count; ++i) {
      const int v = sharing.fresh[i];
      const Four x = c.difference[q][i], unfolded = x >> 1 ^ (0u - (x & 1u));
      value[v] = (value[by.a[v]] + value[by.b[v]] - value[by.c[v]] + unfolded) & kept;
    }
  }
}

// For each vertex of a cluster a set bit where it is new in the part, or a clear one and its number there.
Sharing encode_sharing(const uint32_t* refs, int count, std::unordered_map<uint32_t, uint32_t>& known,
                       BitWriter& out) {
  Sharing sharing;
  for (int v = 0; v < count; ++v) {
    const uint32_t numbers = static_cast<uint32_t>(known.size());
    const auto [at, is_new] = known.insert({refs[v], numbers});
    out.put(is_new, 1);
    if (is_new)
      sharing.fresh[sharing.fresh_count++] = static_cast<uint8_t>(v);
    else
      out.put(at->second, bit_length(numbers - 1));
  }
  return sharing;
}

// Fetches the vertices that the part has; `first_at` says where in `vertices` each of its numbers is.
bool decode_sharing(const int32_t* vertices, size_t begin, int count, int width,
                    std::vector<uint32_t>& first_at, Sharing& sharing, Components& out, BitReader& in) {
  const int fours = (width + lanes - 1) / lanes;
  for (int v = 0; v < count; ++v) {
    const int bits = first_at.empty() ? 0 : bit_length(static_cast<uint32_t>(first_at.size() - 1));
    if (!in.has(0)) return false;
    const uint32_t word = in.take(1 + bits);
    if (word & 1) {
      in.skip(-bits);
      sharing.fresh[sharing.fresh_count++] = static_cast<uint8_t>(v);
      first_at.push_back(static_cast<uint32_t>(begin + v));
      continue;
    }
    const uint32_t number = word >> 1;
    if (number >= first_at.size()) return false;
    const int32_t* from = vertices + size_t(first_at[number]) * width;
    for (int q = 0; q < fours; ++q) std::memcpy(&out.value[q][v], from + lanes * q, sizeof(Four));
  }
  return true;
}

// A cluster's vertices, `width` components each. May write up to `lanes` components more behind them.
bool decode_vertices(int32_t* vertices, size_t begin, int count, int width, const Walk& walk,
                     std::vector<uint32_t>& first_at, uint32_t* bases, BitReader& in) {
  Components c;
  Sharing sharing;
  if (!decode_sharing(vertices, begin, count, width, first_at, sharing, c, in)) return false;
  for (int k = 0; k < width; ++k)
    if (!read_component(k, sharing, c, bases[k], in)) return false;
  const int fours = (width + lanes - 1) / lanes;
  predict(fours, sharing, walk, c);
  for (int k = 0; k < width; ++k)
    if (c.of(c.kept, k, k / lanes)) bases[k] = c.of(c.value[k / lanes], k, 0);
  for (int v = 0; v < count; ++v)  // ascending: what one writes too much, the next one overwrites
    for (int q = 0; q < fours; ++q)
      std::memcpy(vertices + (begin + v) * width + lanes * q, &c.value[q][v], sizeof(Four));
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

bool VertexLayout::put(const int32_t* values, size_t at, Vertices& out) const {
  bool sound = true;
  float* position = &out.positions[3 * at];
  for (int a = 0; a < 3; ++a, ++values) {
    sound &= *values >= -(1 << 24) && *values <= 1 << 24;
    const float grid = float(*values) * out.step;
    position[a] = grid;
    if (exact_) {
      const uint32_t bits = float_bits(grid) + static_cast<uint32_t>(values[3]);
      std::memcpy(&position[a], &bits, 4);
      sound &= std::fabs(position[a] - grid) <= out.step;
    }
  }
  if (exact_) values += 3;
  if (normals_) {
    constexpr int32_t largest = normal_mask - 1;
    sound &= values[0] >= 0 && values[0] <= largest && values[1] >= 0 && values[1] <= largest;
    decode_normal(uint32_t(values[0]) | uint32_t(values[1]) << normal_bits, &out.normals[3 * at]);
    values += 2;
  }
  for (int a = 0; uvs_ && a < 2; ++a) {
    const float uv = out.uvs[2 * at + a] = decode_uv(*values++, out.uv_step);
    sound &= std::isfinite(uv);
  }
  for (int a = 0; colors_ && a < 4; ++a, ++values) {
    sound &= *values >= 0 && *values <= 255;
    out.colors[4 * at + a] = float(*values) / 255;
  }
  if (materials_) out.materials[at] = static_cast<uint32_t>(*values);
  return sound;
}

void VertexLayout::resize(size_t vertices, Vertices& out) const {
  out.positions.resize(3 * vertices);
  if (normals_) out.normals.resize(3 * vertices);
  if (uvs_) out.uvs.resize(2 * vertices);
  if (colors_) out.colors.resize(4 * vertices);
  if (materials_) out.materials.resize(vertices);
}

bool VertexLayout::append(const std::vector<int32_t>& values, Vertices& out) const {
  return append(values.data(), values.size() / width(), out);
}

bool VertexLayout::append(const int32_t* values, size_t count, Vertices& out) const {
  const size_t first = out.vertex_count();
  resize(first + count, out);
  bool sound = true;
  for (size_t i = 0; i < count; ++i) sound &= put(values + i * width(), first + i, out);
  return sound;
}

void VertexLayout::reserve(size_t vertices, Vertices& out) const {
  out.positions.reserve(3 * vertices);
  if (normals_) out.normals.reserve(3 * vertices);
  if (uvs_) out.uvs.reserve(2 * vertices);
  if (colors_) out.colors.reserve(4 * vertices);
  if (materials_) out.materials.reserve(vertices);
}

bool has_exact_floats(const Asset& asset) {
  for (float p : asset.positions)
    if (float(grid_point(p, asset.step)) * asset.step != p) return true;
  return false;
}

std::vector<uint8_t> encode_part(const Asset& asset, uint32_t cluster_begin, uint32_t clusters,
                                 const VertexLayout& layout) {
  std::vector<uint8_t> out;
  const Cluster *first = &asset.clusters[cluster_begin], *last = first + clusters;
  for (const Cluster* c = first; c < last; ++c) {
    out.push_back(static_cast<uint8_t>(c->vertex_count));
    out.push_back(static_cast<uint8_t>(c->triangle_count));
  }
  BitWriter bits(out);
  std::vector<int32_t> vertices;
  uint32_t bases[max_vertex_width] = {};
  std::unordered_map<uint32_t, uint32_t> known;  // vertex of the asset -> number in the part
  const int width = layout.width();
  for (const Cluster* c = first; c < last; ++c) {
    Walk walk;
    for (int t = 0; t < c->triangle_count; ++t)
      encode_triangle(&asset.triangles[3 * (size_t(c->triangle_begin) + t)], walk, bits);
    const uint32_t* refs = &asset.vertex_refs[c->vertex_begin];
    const Sharing sharing = encode_sharing(refs, c->vertex_count, known, bits);
    vertices.resize(size_t(c->vertex_count) * width);
    for (int v = 0; v < c->vertex_count; ++v) layout.read(asset, refs[v], &vertices[size_t(v) * width]);
    for (int k = 0; k < width; ++k)
      encode_component(&vertices[k], c->vertex_count, width, sharing, walk, bases[k], bits);
  }
  bits.finish();
  return out;
}

bool decode_part(const uint8_t* data, size_t size, uint32_t clusters, const VertexLayout& layout,
                 DecodedPart& out, std::string& why) {
  auto fail = [&](const char* text) {
    why = text;
    return false;
  };
  if (clusters > most_part_clusters) return fail("has too many clusters");
  const size_t header = 2 * size_t(clusters);
  if (size < header + padding) return fail("is shorter than its header");
  out.vertex_counts.clear(), out.triangle_counts.clear();
  size_t vertices = 0, triangles = 0;
  for (uint32_t c = 0; c < clusters; ++c) {
    out.vertex_counts.push_back(data[2 * c]);
    out.triangle_counts.push_back(data[2 * c + 1]);
    if (data[2 * c] < 3 || data[2 * c + 1] < 1 || data[2 * c + 1] > max_cluster_triangles)
      return fail("has a cluster of an impossible size");
    vertices += data[2 * c], triangles += data[2 * c + 1];
  }
  BitReader bits(data + header, size - header);
  const int width = layout.width();
  uint32_t bases[max_vertex_width] = {};
  out.vertices.resize(vertices * width + lanes), out.triangles.resize(triangles * 3);
  std::vector<uint32_t> first_at;
  first_at.reserve(vertices);
  size_t begin = 0;
  uint8_t* triangle = out.triangles.data();
  for (uint32_t c = 0; c < clusters; ++c) {
    const int count = out.vertex_counts[c];
    Walk walk;
    if (!decode_triangles(triangle, out.triangle_counts[c], count, walk, bits))
      return fail("has triangles that cannot be decoded");
    if (!decode_vertices(out.vertices.data(), begin, count, width, walk, first_at, bases, bits))
      return fail("has vertices that cannot be decoded");
    triangle += 3 * out.triangle_counts[c], begin += count;
  }
  out.vertices.resize(vertices * width);
  return true;
}

}  // namespace nanite_cull
