#include "store/join_parts.h"

namespace nanite_cull {

PartJoin::PartJoin(Asset& asset, const VertexLayout& layout, uint64_t vertices)
    : asset_(asset), layout_(layout), vertices_(vertices), table_(vertices, layout.width()) {
  keys_.reserve(vertices * layout.width());
  uint64_t refs = 0, triangles = 0;
  for (const Cluster& c : asset.clusters) refs += c.vertex_count, triangles += c.triangle_count;
  layout.reserve(vertices, asset);
  asset.vertex_refs.reserve(refs);
  asset.triangles.reserve(3 * triangles);
}

bool PartJoin::add(const DecodedPart& part) {
  const int width = layout_.width();
  for (size_t at = 0; at < part.vertices.size(); at += width) {
    const int32_t* vertex = &part.vertices[at];
    const uint32_t id = table_.find_or_add(reinterpret_cast<const uint32_t*>(vertex), keys_);
    if (id == asset_.vertex_count() && (id >= vertices_ || !layout_.append(vertex, 1, asset_))) return false;
    asset_.vertex_refs.push_back(id);
  }
  asset_.triangles.insert(asset_.triangles.end(), part.triangles.begin(), part.triangles.end());
  return true;
}

}  // namespace nanite_cull
