#include "store/page.h"

#include <array>
#include <numeric>

namespace nanite_cull {

namespace {

// 0, 1, 2, ...: the vertices of a cluster that shares none.
const std::array<uint32_t, max_cluster_vertices> own_refs = [] {
  std::array<uint32_t, max_cluster_vertices> refs{};
  std::iota(refs.begin(), refs.end(), 0u);
  return refs;
}();

}  // namespace

ClusterGeometry Page::geometry(const Cluster& c) const {
  return {this, c.vertex_begin - vertex_begin, own_refs.data(),
          &triangles[3 * size_t(c.triangle_begin - triangle_begin)]};
}

}  // namespace nanite_cull
