#include "cull.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "cull_simd.h"
#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr int64_t batch_instances = 512;  // the unit of parallel work

void require_capacity(uint64_t capacity, const char* name) {
  native::demand(capacity >= 1 && capacity < (uint64_t(1) << 31), [&] {
    return std::string("cull: ") + name + " must be 1 to 2^31 - 1, got " + std::to_string(capacity);
  });
}

}  // namespace

// What one batch of instances found; batches are joined in their order.
struct CullContext::Batch {
  std::vector<uint32_t> nodes;   // waiting
  std::vector<uint32_t> groups;  // whose parents are too coarse: their clusters are candidates
  std::vector<uint32_t> clusters;
  std::vector<Visible> small, large;
  CullStats stats;
};

void CullContext::init_context(const View& view, const CullOptions& options) {
  native::demand(view.width >= 1 && view.height >= 1 && view.width <= 16384 && view.height <= 16384, [&] {
    return "cull: the image must be 1 to 16384 pixels wide and high, got " + std::to_string(view.width) +
           " x " + std::to_string(view.height);
  });
  native::demand(view.threshold >= 0 && view.threshold <= 1e9f, [&] {
    return "cull: threshold must be 0 to 1e9 pixels, got " + std::to_string(view.threshold);
  });
  native::demand(view.near_distance > 0 && view.pixels_per_unit > 0, [&] {
    return "cull: the near distance and the scale of the view must be positive, got " +
           std::to_string(view.near_distance) + " and " + std::to_string(view.pixels_per_unit);
  });
  require_capacity(options.max_candidate_nodes, "max_candidate_nodes");
  require_capacity(options.max_candidate_clusters, "max_candidate_clusters");
  require_capacity(options.max_visible_clusters, "max_visible_clusters");
  view_ = view;
  options_ = options;
  const int rows[6] = {0, 0, 1, 1, 2, 2};
  for (int p = 0; p < 6; ++p) {
    double plane[4], length = 0;
    for (int j = 0; j < 4; ++j)
      plane[j] = (p == 5 ? 0 : view.world_to_clip[12 + j]) +
                 (p == 4 || p == 1 || p == 3 ? -1 : 1) * view.world_to_clip[4 * rows[p] + j];
    for (int j = 0; j < 3; ++j) length += plane[j] * plane[j];
    length = std::sqrt(length);
    for (int j = 0; j < 4; ++j)
      world_planes_[p][j] = static_cast<float>(length > 0 ? plane[j] / length : j == 3);
  }
}

void CullContext::cull(const Scene& scene, VisibleClusters& out, CullStats& stats) {
  const int64_t count = scene.size();
  std::vector<Batch> batches((count + batch_instances - 1) / batch_instances);
  native::parallel_for(count, batch_instances, options_.threads, [&](int64_t first, int64_t last) {
    instance_cull(scene, first, last, batches[first / batch_instances]);
  });

  out.buffer.resize(options_.max_visible_clusters);
  out.small = out.large = 0;
  stats = {};
  stats.instances = count;
  for (const Batch& batch : batches) {
    const CullStats& s = batch.stats;
    stats.visible_instances += s.visible_instances, stats.nodes += s.nodes;
    stats.candidate_clusters += s.candidate_clusters, stats.triangles += s.triangles;
    stats.dropped_nodes += s.dropped_nodes, stats.dropped_candidate_clusters += s.dropped_candidate_clusters;
    const uint64_t capacity = out.buffer.size();
    for (const Visible& v : batch.small)
      if (out.small + out.large < capacity)
        out.buffer[out.small++] = v;
      else
        ++stats.dropped_visible_clusters;
    for (const Visible& v : batch.large)
      if (out.small + out.large < capacity)
        out.buffer[capacity - 1 - out.large++] = v;
      else
        ++stats.dropped_visible_clusters;
  }
  stats.visible_small = out.small, stats.visible_large = out.large;
}

void CullContext::instance_cull(const Scene& scene, int64_t first, int64_t last, Batch& batch) const {
  const InstanceSpheres& s = scene.spheres;
  for (int64_t i = first; i < last; ++i) {
    bool inside = true;
    for (int p = 0; options_.frustum && p < 6; ++p) {
      const float* n = world_planes_[p];
      const float slack = 4e-6f * (std::fabs(n[0] * s.x[i]) + std::fabs(n[1] * s.y[i]) +
                                   std::fabs(n[2] * s.z[i]) + std::fabs(n[3]));
      inside = inside && n[0] * s.x[i] + n[1] * s.y[i] + n[2] * s.z[i] + n[3] >= -(s.r[i] + slack);
    }
    if (!inside) continue;
    ++batch.stats.visible_instances;
    const Asset& asset = *scene.assets[scene.instances[i].asset];
    InstanceView view = make_instance_view(view_, scene.instances[i], asset);
    if (!options_.frustum) view.plane_count = 0;
    node_cull(asset, view, batch);
    cluster_cull(asset, view, static_cast<uint32_t>(i), batch);
  }
}

void CullContext::node_cull(const Asset& asset, const InstanceView& view, Batch& batch) const {
  batch.groups.clear();
  uint64_t candidates = 0;
  auto add_group = [&](uint32_t g) {
    if (!too_coarse(view.lod, asset.groups[g].bounds)) return;
    const uint32_t count = asset.groups[g].cluster_count;
    if (candidates + count > options_.max_candidate_clusters) {
      batch.stats.dropped_candidate_clusters += count;
      return;
    }
    candidates += count;
    batch.groups.push_back(g);
  };
  if (!options_.hierarchy) {
    for (uint32_t g = 0; g < asset.groups.size(); ++g) add_group(g);
  } else {
    batch.nodes.assign(1, 0);
    while (!batch.nodes.empty()) {
      const uint32_t n = batch.nodes.back();
      batch.nodes.pop_back();
      ++batch.stats.nodes;
      for (uint32_t mask = visible_children(asset.nodes[n], view); mask; mask &= mask - 1) {
        const uint32_t child = asset.nodes[n].child[__builtin_ctz(mask)];
        if (child & leaf_bit)
          add_group(child & ~leaf_bit);
        else if (batch.nodes.size() < options_.max_candidate_nodes)
          batch.nodes.push_back(child);
        else
          ++batch.stats.dropped_nodes;
      }
    }
  }
  batch.stats.candidate_clusters += candidates;
}

void CullContext::cluster_cull(const Asset& asset, const InstanceView& view, uint32_t instance,
                               Batch& batch) const {
  batch.clusters.clear();
  for (uint32_t g : batch.groups) {
    const Group& group = asset.groups[g];
    for (uint32_t c = 0; c < group.cluster_count; c += 8) {
      const uint32_t lanes = std::min(8u, group.cluster_count - c);
      for (uint32_t mask = visible_clusters(asset.bounds, group.cluster_begin + c, lanes, view); mask;
           mask &= mask - 1)
        batch.clusters.push_back(group.cluster_begin + c + __builtin_ctz(mask));
    }
  }
  std::sort(batch.clusters.begin(), batch.clusters.end());
  for (uint32_t c : batch.clusters) {
    (is_large(asset, view.lod, c) ? batch.large : batch.small).push_back({instance, c});
    batch.stats.triangles += asset.clusters[c].triangle_count;
  }
}

bool CullContext::is_large(const Asset& asset, const LodView& lod, uint32_t cluster) const {
  float square = 0;
  for (int a = 0; a < 3; ++a) {
    const float gap =
        std::max({asset.bounds.lo[a][cluster] - lod.eye[a], lod.eye[a] - asset.bounds.hi[a][cluster], 0.0f});
    square += gap * gap;
  }
  // 2: the near plane is nearer to a box at the image's edge than its distance from the eye tells
  const float distance = lod.orthographic != 0 ? 1 : std::sqrt(square);
  if (lod.orthographic == 0 && !(distance > 2 * lod.near_distance)) return true;
  return asset.clusters[cluster].longest_edge * lod.error_to_pixels > large_edge_pixels * distance;
}

}  // namespace nanite_cull
