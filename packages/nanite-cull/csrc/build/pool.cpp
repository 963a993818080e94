#include "build/pool.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "build/meshopt_api.h"
#include "core/lod.h"

namespace nanite_cull {

namespace {

constexpr size_t crowded = 512;       // triangles at one vertex: the builder looks at all for each it adds
constexpr float split_factor = 2.0f;  // the builder may start a cluster anew when it grows this much too wide

// Finds the input triangle behind an output triangle: the builder keeps corners in their order. Equal
// triangles hang in a chain and are taken one after the other.
class SourceFinder {
 public:
  explicit SourceFinder(const std::vector<uint32_t>& indices) : indices_(indices) {
    size_t size = 64;
    while (size < indices.size() / 3 * 2) size *= 2;
    slots_.assign(size, none);
    next_.assign(indices.size() / 3, none);
    for (uint32_t t = static_cast<uint32_t>(next_.size()); t-- > 0;) {
      uint32_t& head = slots_[slot_of(&indices[3 * size_t(t)])];
      next_[t] = head, head = t;
    }
  }
  uint32_t take(const uint32_t* corners) {
    uint32_t& head = slots_[slot_of(corners)];
    const uint32_t t = head;
    if (next_[t] != none) head = next_[t];  // the last one stays: its slot must not look free
    return t;
  }

 private:
  // Where triangles with these corners hang, or may.
  size_t slot_of(const uint32_t* c) const {
    uint64_t h = (c[0] * 0x9e3779b97f4a7c15ull ^ c[1]) * 0xff51afd7ed558ccdull ^ c[2];
    h *= 0xc4ceb9fe1a85ec53ull;
    size_t slot = (h >> 32) & (slots_.size() - 1);
    while (slots_[slot] != none && std::memcmp(&indices_[3 * size_t(slots_[slot])], c, 12) != 0)
      slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }
  const std::vector<uint32_t>& indices_;
  std::vector<uint32_t> slots_, next_;
};

bool has_crowded_vertex(const std::vector<uint32_t>& indices, size_t vertices) {
  std::vector<uint32_t> uses(vertices, 0);
  return std::any_of(indices.begin(), indices.end(), [&](uint32_t v) { return ++uses[v] > crowded; });
}

// The clusters of one piece; `sources` and `debts` are those of its triangles.
void split_piece(const std::vector<uint32_t>& indices, const std::vector<float>& positions,
                 const std::vector<uint32_t>& to_wedge, const uint32_t* sources, const float* debts,
                 int max_triangles, ClusterPool& out) {
  const MeshoptApi& api = meshopt();
  const size_t min_triangles = size_t(max_triangles) / 3 & ~size_t(3);
  const size_t max_vertices = max_cluster_vertices;
  const size_t bound = api.build_bound(indices.size(), max_vertices, min_triangles);
  std::vector<MeshoptMeshlet> meshlets(bound);
  std::vector<unsigned> vertices(std::max(indices.size(), bound * max_vertices));
  std::vector<unsigned char> triangles(std::max(indices.size() + bound * 3, bound * max_triangles * 3));
  const size_t count =
      api.build_flex(meshlets.data(), vertices.data(), triangles.data(), indices.data(), indices.size(),
                     positions.data(), positions.size() / 3, 3 * sizeof(float), max_vertices, min_triangles,
                     max_triangles, 0.0f, split_factor);
  static const std::vector<uint32_t> nothing;
  SourceFinder finder(sources || debts ? indices : nothing);
  for (size_t m = 0; m < count; ++m) {
    const MeshoptMeshlet& meshlet = meshlets[m];
    ClusterPool::Entry entry{};
    entry.vertex_begin = static_cast<uint32_t>(out.vertices.size());
    entry.triangle_begin = static_cast<uint32_t>(out.triangle_total());
    entry.vertex_count = static_cast<uint16_t>(meshlet.vertex_count);
    entry.triangle_count = static_cast<uint16_t>(meshlet.triangle_count);
    entry.source_group = none;
    const unsigned* local = vertices.data() + meshlet.vertex_offset;
    for (unsigned v = 0; v < meshlet.vertex_count; ++v) out.vertices.push_back(to_wedge[local[v]]);
    for (unsigned t = 0; t < meshlet.triangle_count; ++t) {
      const unsigned char* corner = triangles.data() + meshlet.triangle_offset + 3 * t;
      const int first = corner[1] < corner[0] && corner[1] < corner[2]   ? 1
                        : corner[2] < corner[0] && corner[2] < corner[1] ? 2
                                                                         : 0;
      for (int c = 0; c < 3; ++c) out.triangles.push_back(corner[(first + c) % 3]);
      if (!sources && !debts) continue;
      const uint32_t key[3] = {local[corner[0]], local[corner[1]], local[corner[2]]};
      const uint32_t from = finder.take(key);
      if (sources) out.sources.push_back(sources[from]);
      if (debts) out.debts.push_back(debts[from]);
    }
    out.entries.push_back(entry);
  }
}

}  // namespace

void split_into_clusters(const std::vector<uint32_t>& indices, const std::vector<float>& positions,
                         const std::vector<uint32_t>& to_wedge, const std::vector<uint32_t>* sources,
                         const std::vector<float>* debts, int max_triangles, ClusterPool& out) {
  const size_t triangles = indices.size() / 3;
  const uint32_t* source = sources ? sources->data() : nullptr;
  const float* debt = debts ? debts->data() : nullptr;
  if (triangles <= crowded || !has_crowded_vertex(indices, to_wedge.size())) {
    split_piece(indices, positions, to_wedge, source, debt, max_triangles, out);
    return;
  }
  for (size_t first = 0; first < triangles; first += crowded) {
    const size_t last = std::min(first + crowded, triangles);
    split_piece({indices.begin() + 3 * first, indices.begin() + 3 * last}, positions, to_wedge,
                source ? source + first : nullptr, debt ? debt + first : nullptr, max_triangles, out);
  }
}

Sphere sphere_around(const float* points, const uint32_t* indices, size_t count) {
  double lo[3], hi[3];
  for (int a = 0; a < 3; ++a) lo[a] = hi[a] = points[3 * size_t(indices[0]) + a];
  for (size_t i = 0; i < count; ++i)
    for (int a = 0; a < 3; ++a) {
      lo[a] = std::min<double>(lo[a], points[3 * size_t(indices[i]) + a]);
      hi[a] = std::max<double>(hi[a], points[3 * size_t(indices[i]) + a]);
    }
  Sphere s{float((lo[0] + hi[0]) / 2), float((lo[1] + hi[1]) / 2), float((lo[2] + hi[2]) / 2), 0};
  double square = 0;
  for (size_t i = 0; i < count; ++i) {
    const float* p = points + 3 * size_t(indices[i]);
    const double x = double(p[0]) - s.x, y = double(p[1]) - s.y, z = double(p[2]) - s.z;
    square = std::max(square, x * x + y * y + z * z);
  }
  s.r = static_cast<float>(std::sqrt(square) * (1 + double(lod_margin)));
  return s;
}

Sphere sphere_around(const std::vector<Sphere>& spheres) {
  double lo[3] = {1e300, 1e300, 1e300}, hi[3] = {-1e300, -1e300, -1e300};
  for (const Sphere& s : spheres) {
    const double c[3] = {s.x, s.y, s.z};
    for (int a = 0; a < 3; ++a) lo[a] = std::min(lo[a], c[a] - s.r), hi[a] = std::max(hi[a], c[a] + s.r);
  }
  Sphere out{float((lo[0] + hi[0]) / 2), float((lo[1] + hi[1]) / 2), float((lo[2] + hi[2]) / 2), 0};
  double radius = 0;
  for (const Sphere& s : spheres) {
    const double x = double(s.x) - out.x, y = double(s.y) - out.y, z = double(s.z) - out.z;
    radius = std::max(radius, std::sqrt(x * x + y * y + z * z) + s.r);
  }
  // twice the margin that validate() asks for: one for the promise, one for this rounding
  out.r = static_cast<float>(radius * (1 + 2 * double(lod_margin)));
  return out;
}

void measure_cluster(Asset& asset, uint32_t index) {
  Cluster& cluster = asset.clusters[index];
  ClusterBounds& b = asset.bounds;
  const uint32_t* refs = &asset.vertex_refs[cluster.vertex_begin];
  for (int a = 0; a < 3; ++a) {
    float lo = infinite_error, hi = -infinite_error;
    for (int v = 0; v < cluster.vertex_count; ++v) {
      lo = std::min(lo, asset.positions[3 * size_t(refs[v]) + a]);
      hi = std::max(hi, asset.positions[3 * size_t(refs[v]) + a]);
    }
    b.lo[a][index] = lo, b.hi[a][index] = hi;
  }
  float longest = 0;
  const uint8_t* corner = &asset.triangles[3 * size_t(cluster.triangle_begin)];
  for (int t = 0; t < cluster.triangle_count; ++t, corner += 3)
    for (int c = 0; c < 3; ++c) {
      const float* p = &asset.positions[3 * size_t(refs[corner[c]])];
      const float* q = &asset.positions[3 * size_t(refs[corner[(c + 1) % 3]])];
      const float x = p[0] - q[0], y = p[1] - q[1], z = p[2] - q[2];
      longest = std::max(longest, (x * x + y * y) + z * z);
    }
  cluster.longest_edge = std::sqrt(longest) * (1 + 1e-6f);
  LodBounds own;
  if (cluster.source_group != none)
    own = asset.groups[cluster.source_group].bounds;
  else
    own.sphere = sphere_around(asset.positions.data(), refs, cluster.vertex_count);
  b.x[index] = own.sphere.x, b.y[index] = own.sphere.y, b.z[index] = own.sphere.z, b.r[index] = own.sphere.r;
  b.error[index] = own.error;
}

}  // namespace nanite_cull
