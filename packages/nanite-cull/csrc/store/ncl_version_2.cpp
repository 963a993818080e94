#include "store/ncl_version_2.h"

#include <string>

#include "build/hierarchy.h"
#include "build/meshopt_api.h"
#include "build/pool.h"
#include "build/validate.h"
#include "native/check.h"
#include "native/parallel.h"
#include "store/join_parts.h"
#include "store/ncl_format.h"

namespace nanite_cull {

namespace {

constexpr int rice_escape = 24;  // this many ones announce a number in full
constexpr int full_bits = 34;    // enough for a difference of two 32-bit numbers, folded

struct GroupRecord2 {
  float x, y, z, r, error;
  uint32_t level, clusters, page, offset, bytes;  // offset: in the page
};
struct ClusterRecord2 {
  uint32_t source_group, level;
};
struct PageRecord2 {
  uint64_t offset, bytes, hash;
};
static_assert(sizeof(GroupRecord2) == 40 && sizeof(ClusterRecord2) == 8 && sizeof(PageRecord2) == 24,
              "records have no padding");

// 0, 1, 2, 3, ... to 0, -1, 1, -2, ...
int64_t unfold(uint64_t x) { return static_cast<int64_t>(x >> 1) ^ -static_cast<int64_t>(x & 1); }

// Reads within [data, data + size); past the end it gives zeros and remembers that.
class BitReader {
 public:
  BitReader(const uint8_t* data, size_t size) : data_(data), size_(size * 8) {}
  uint64_t bits(int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; ++i) value |= static_cast<uint64_t>(bit()) << i;
    return value;
  }
  uint64_t rice(int k) {
    int quotient = 0;
    while (quotient < rice_escape && bit()) ++quotient;
    if (quotient == rice_escape) return bits(full_bits);
    return static_cast<uint64_t>(quotient) << k | bits(k);
  }
  bool past_end() const { return at_ > size_; }

 private:
  int bit() {
    const size_t at = at_++;
    return at < size_ ? data_[at >> 3] >> (at & 7) & 1 : 0;
  }
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

constexpr int parameter_bits = 5;

// For each local vertex the earlier vertices that predict it: a + b - c across a shared edge, else the
// middle of a and b, else a, else the vertex before.
struct Predictor {
  int a = -1, b = -1, c = -1;

  int64_t predict(const int32_t* vertices, int width, int vertex, int component) const {
    auto value = [&](int v) { return int64_t(vertices[v * width + component]); };
    if (c >= 0) return value(a) + value(b) - value(c);
    if (b >= 0) return (value(a) + value(b)) / 2;
    if (a >= 0) return value(a);
    return vertex > 0 ? value(vertex - 1) : 0;
  }
};

// The corner opposite to edge (a, b) in one of the first `count` triangles, if it precedes `vertex`.
int opposite(const uint8_t* triangles, int count, int a, int b, int vertex) {
  for (int t = count - 1; t >= 0; --t) {
    const uint8_t* v = triangles + 3 * t;
    for (int i = 0; i < 3; ++i) {
      const int p = v[i], q = v[(i + 1) % 3], r = v[(i + 2) % 3];
      if (((p == a && q == b) || (p == b && q == a)) && r < vertex) return r;
    }
  }
  return -1;
}

std::vector<Predictor> predictors(const uint8_t* triangles, int triangle_count, int vertex_count) {
  std::vector<Predictor> out(vertex_count);
  std::vector<bool> seen(vertex_count, false);
  for (int t = 0; t < triangle_count; ++t)
    for (int i = 0; i < 3; ++i) {
      const int v = triangles[3 * t + i];
      if (seen[v]) continue;
      seen[v] = true;
      for (int other : {int(triangles[3 * t + (i + 1) % 3]), int(triangles[3 * t + (i + 2) % 3])})
        if (other < v) (out[v].a < 0 ? out[v].a : out[v].b) = other;
      if (out[v].b >= 0) out[v].c = opposite(triangles, t, out[v].a, out[v].b, v);
    }
  return out;
}

bool decode_vertices(int32_t* vertices, int count, int width, const std::vector<Predictor>& by,
                     BitReader& in) {
  for (int component = 0; component < width; ++component) {
    const int k = static_cast<int>(in.bits(parameter_bits));
    for (int v = 0; v < count; ++v) {
      const int64_t value = by[v].predict(vertices, width, v, component) + unfold(in.rice(k));
      if (value < INT32_MIN || value > INT32_MAX) return false;
      vertices[v * width + component] = static_cast<int32_t>(value);
    }
    if (in.past_end()) return false;
  }
  return true;
}

// Triangles by meshoptimizer's index codec; each from its smallest local index, since the codec may turn it.
bool decode_indices(const uint8_t* data, size_t size, DecodedPart& out, std::string& why) {
  size_t triangles = 0;
  for (uint8_t count : out.triangle_counts) triangles += count;
  std::vector<uint32_t> indices(triangles * 3);
  if (meshopt().decode_index(indices.data(), indices.size(), 4, data, size) != 0) {
    why = "has indices that cannot be decoded";
    return false;
  }
  const uint32_t* v = indices.data();
  uint32_t base = 0;
  for (size_t c = 0; c < out.triangle_counts.size(); ++c) {
    for (int t = 0; t < out.triangle_counts[c]; ++t, v += 3) {
      const int first = v[1] < v[0] && v[1] < v[2] ? 1 : v[2] < v[0] && v[2] < v[1] ? 2 : 0;
      for (int i = 0; i < 3; ++i) {
        if (v[i] - base >= out.vertex_counts[c]) {
          why = "has an index outside its cluster";
          return false;
        }
        out.triangles.push_back(static_cast<uint8_t>(v[(first + i) % 3] - base));
      }
    }
    base += out.vertex_counts[c];
  }
  return true;
}

bool decode_group(const uint8_t* data, size_t size, uint32_t clusters, int width, DecodedPart& out,
                  std::string& why) {
  auto fail = [&](const char* text) {
    why = text;
    return false;
  };
  const size_t header = 2 * size_t(clusters) + 4;
  if (size < header) return fail("is shorter than its header");
  for (uint32_t c = 0; c < clusters; ++c) {
    out.vertex_counts.push_back(data[2 * c]);
    out.triangle_counts.push_back(data[2 * c + 1]);
    if (data[2 * c] < 3 || data[2 * c + 1] < 1 || data[2 * c + 1] > max_cluster_triangles)
      return fail("has a cluster of an impossible size");
  }
  uint32_t coded;
  std::memcpy(&coded, data + header - 4, 4);
  if (coded > size - header) return fail("has an index part that is longer than itself");
  if (!decode_indices(data + header, coded, out, why)) return false;
  BitReader bits(data + header + coded, size - header - coded);
  const uint8_t* triangle = out.triangles.data();
  for (uint32_t c = 0; c < clusters; ++c) {
    const auto by = predictors(triangle, out.triangle_counts[c], out.vertex_counts[c]);
    const size_t at = out.vertices.size();
    out.vertices.resize(at + size_t(out.vertex_counts[c]) * width);
    if (!decode_vertices(&out.vertices[at], out.vertex_counts[c], width, by, bits))
      return fail("has vertices that cannot be decoded");
    triangle += 3 * out.triangle_counts[c];
  }
  return true;
}

[[noreturn]] void refuse(const std::string& why) { throw native::ValueError("read_ncl: " + why); }

// The tables of a file, copied out of it.
struct Tables {
  HeaderStart header;
  std::vector<GroupRecord2> groups;
  std::vector<ClusterRecord2> clusters;
  std::vector<PageRecord2> pages;
};

uint64_t hash_tables(HeaderStart header, const Tables& t) {
  header.hash = 0;
  uint64_t h = hash_bytes(reinterpret_cast<const uint8_t*>(&header), sizeof(header), 1);
  h = hash_bytes(bytes_of(t.groups), t.groups.size() * sizeof(GroupRecord2), h);
  h = hash_bytes(bytes_of(t.clusters), t.clusters.size() * sizeof(ClusterRecord2), h);
  h = hash_bytes(bytes_of(t.pages), t.pages.size() * sizeof(PageRecord2), h);
  return hash_bytes(nullptr, 0, h);  // of a table that no file of this version has
}

Tables read_tables(const uint8_t* data, size_t size, bool verify) {
  Tables t;
  HeaderStart& h = t.header;
  std::memcpy(&h, data, sizeof(h));
  if (h.groups + h.clusters + h.pages > size || h.groups > h.clusters || h.pages > h.groups ||
      sizeof(h) + h.groups * sizeof(GroupRecord2) + h.clusters * sizeof(ClusterRecord2) +
              h.pages * sizeof(PageRecord2) >
          size)
    refuse("the header is damaged (impossible counts)");
  const uint8_t* at = data + sizeof(h);
  auto read = [&](auto& table, uint64_t count) {
    table.resize(count);
    std::memcpy(table.data(), at, count * sizeof(table[0]));
    at += count * sizeof(table[0]);
  };
  read(t.groups, h.groups), read(t.clusters, h.clusters), read(t.pages, h.pages);
  if (verify && hash_tables(h, t) != h.hash) refuse("the header or a table is damaged (its hash differs)");
  uint64_t total = 0;
  for (const GroupRecord2& g : t.groups) {
    if (g.level >= most_levels || g.page >= h.pages || g.clusters < 1 || g.clusters > h.clusters ||
        g.bytes > t.pages[g.page].bytes || g.offset > t.pages[g.page].bytes - g.bytes)
      refuse("the group table is damaged (a group lies outside its page)");
    total += g.clusters;
  }
  if (total != h.clusters)
    refuse("the groups hold " + std::to_string(total) + " clusters, the header says " +
           std::to_string(h.clusters));
  for (size_t p = 0; p < t.pages.size(); ++p) {
    const PageRecord2& page = t.pages[p];
    if (page.bytes > page_bytes || page.offset > size || page.bytes > size - page.offset)
      refuse("page " + std::to_string(p) + " lies outside the file");
    if (verify && hash_bytes(data + page.offset, page.bytes, p) != page.hash)
      refuse("page " + std::to_string(p) + " is damaged (its hash differs)");
  }
  return t;
}

// Clusters and groups from the tables and the decoded counts.
void add_records(const Tables& t, const std::vector<DecodedPart>& parts, Asset& asset) {
  size_t index = 0;
  uint32_t vertex = 0, triangle = 0;
  for (uint32_t g = 0; g < parts.size(); ++g) {
    const GroupRecord2& record = t.groups[g];
    asset.groups.push_back({{{record.x, record.y, record.z, record.r}, record.error},
                            static_cast<uint32_t>(asset.clusters.size()),
                            record.clusters,
                            record.level});
    for (uint32_t c = 0; c < record.clusters; ++c, ++index) {
      Cluster cluster;
      cluster.vertex_begin = vertex, cluster.triangle_begin = triangle;
      cluster.vertex_count = parts[g].vertex_counts[c], cluster.triangle_count = parts[g].triangle_counts[c];
      cluster.group = g;
      cluster.source_group = t.clusters[index].source_group, cluster.level = t.clusters[index].level;
      if (cluster.source_group != none && cluster.source_group >= parts.size())
        refuse("cluster " + std::to_string(index) + " names a group that does not exist");
      vertex += cluster.vertex_count, triangle += cluster.triangle_count;
      asset.clusters.push_back(cluster);
    }
  }
}

}  // namespace

Asset decode_version_2(const uint8_t* data, size_t size, bool verify_hashes, int threads) {
  const Tables t = read_tables(data, size, verify_hashes);
  const VertexLayout layout(t.header.flags);
  std::vector<DecodedPart> parts(t.groups.size());
  native::parallel_for(parts.size(), 8, threads, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) {
      const GroupRecord2& record = t.groups[g];
      std::string why;
      if (!decode_group(data + t.pages[record.page].offset + record.offset, record.bytes, record.clusters,
                        layout.width(), parts[g], why))
        refuse("group " + std::to_string(g) + " " + why);
    }
  });
  Asset asset;
  asset.step = t.header.step, asset.uv_step = t.header.uv_step;
  asset.width = t.header.width, asset.levels = t.header.levels;
  add_records(t, parts, asset);
  PartJoin join(asset, layout, t.header.vertices);
  for (uint32_t g = 0; g < parts.size(); ++g)
    if (!join.add(parts[g])) refuse("group " + std::to_string(g) + " has a vertex out of range");
  asset.bounds.resize(asset.clusters.size());
  for (uint32_t c = 0; c < asset.clusters.size(); ++c) measure_cluster(asset, c);
  build_hierarchy(asset);
  return asset;
}

}  // namespace nanite_cull
