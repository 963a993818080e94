#include "cull/cull.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string>

#include "cull/cull_far.h"
#include "cull/cull_simd.h"
#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr uint32_t only_view = 0;         // a context culls one view
constexpr int64_t batch_instances = 512;  // the unit of parallel work
constexpr float always_inside = 1e30f;    // the offset of a plane without a normal: a far plane at infinity

void require_capacity(uint64_t capacity, const char* name) {
  native::demand(capacity >= 1 && capacity < (uint64_t(1) << 31), [&] {
    return std::string("cull: ") + name + " must be 1 to 2^31 - 1, got " + std::to_string(capacity);
  });
}

bool large_cluster(const Asset& asset, const LodView& lod, uint32_t cluster) {
  float lo[3], hi[3];
  for (int a = 0; a < 3; ++a) lo[a] = asset.bounds.lo[a][cluster], hi[a] = asset.bounds.hi[a][cluster];
  return is_large(lod, lo, hi, asset.clusters[cluster].longest_edge);
}

}  // namespace

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
      plane[j] = (p == 5 ? 0 : view.relative_to_clip[12 + j]) +
                 (p == 4 || p == 1 || p == 3 ? -1 : 1) * view.relative_to_clip[4 * rows[p] + j];
    for (int j = 0; j < 3; ++j) plane[3] -= plane[j] * view.eye[j];
    for (int j = 0; j < 3; ++j) length += plane[j] * plane[j];
    length = std::sqrt(length);
    for (int j = 0; j < 4; ++j)
      world_planes_[p][j] = length > 0 ? static_cast<float>(plane[j] / length) : j == 3 ? always_inside : 0;
  }
}

void CullContext::cull(const Scene& scene, VisibleClusters& out, CullStats& stats, Draws* draws) {
  const std::shared_lock held(scene.lock);
  const int64_t count = scene.size();
  batches_.resize((count + batch_instances - 1) / batch_instances);
  native::parallel_for(count, batch_instances, options_.threads, [&](int64_t first, int64_t last) {
    Batch& batch = batches_[first / batch_instances];
    batch.small.clear(), batch.large.clear();
    batch.stats = {};
    instance_cull(scene, first, last, batch);
  });

  out.buffer.resize(options_.max_visible_clusters);
  out.small = out.large = 0;
  stats = {};
  stats.instances = count;
  const uint64_t capacity = out.buffer.size();
  for (const Batch& batch : batches_) {
    const CullStats& s = batch.stats;
    stats.visible_instances += s.visible_instances, stats.far_instances += s.far_instances;
    stats.nodes += s.nodes, stats.candidate_clusters += s.candidate_clusters, stats.triangles += s.triangles;
    stats.dropped_nodes += s.dropped_nodes, stats.dropped_candidate_clusters += s.dropped_candidate_clusters;
    const uint64_t small = std::min<uint64_t>(batch.small.size(), capacity - out.small - out.large);
    std::copy_n(batch.small.begin(), small, out.buffer.begin() + out.small);
    out.small += small;
    const uint64_t large = std::min<uint64_t>(batch.large.size(), capacity - out.small - out.large);
    std::reverse_copy(batch.large.begin(), batch.large.begin() + large, out.buffer.end() - out.large - large);
    out.large += large;
    stats.dropped_visible_clusters += batch.small.size() - small + batch.large.size() - large;
  }
  stats.visible_small = out.small, stats.visible_large = out.large;
  if (draws) collect_draws(scene, out, *draws);
}

// One draw for each run of clusters of one instance, at both ends of the buffer.
void CullContext::collect_draws(const Scene& scene, const VisibleClusters& visible, Draws& out) const {
  out.assets = scene.assets;
  out.draws.clear();
  out.of.resize(visible.buffer.size());
  std::vector<uint32_t> instances;
  auto take = [&](size_t slot) {
    const uint32_t instance = visible.buffer[slot].instance;
    if (instances.empty() || instances.back() != instance) instances.push_back(instance);
    out.of[slot] = static_cast<uint32_t>(instances.size() - 1);
  };
  for (uint64_t i = 0; i < visible.small; ++i) take(i);
  for (uint64_t i = 0; i < visible.large; ++i) take(visible.buffer.size() - 1 - i);
  out.draws.resize(instances.size());
  native::parallel_for(out.draws.size(), 1024, options_.threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) out.draws[i] = make_draw(view_, scene, instances[i]);
  });
}

void CullContext::instance_cull(const Scene& scene, int64_t first, int64_t last, Batch& batch) const {
  for (int64_t i = first; i < last;) {
    if (options_.hierarchy && i + 8 <= last && far_cull(scene, i, batch))
      i += 8;
    else
      near_cull(scene, i++, batch);
  }
}

// Eight instances at once; false where this processor has no form of that.
bool CullContext::far_cull(const Scene& scene, int64_t first, Batch& batch) const {
  FarMasks masks;
  if (!test_far(scene, first, view_, world_planes_, options_.frustum, masks)) return false;
  for (uint32_t left = ~masks.outside & 255; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    const uint32_t instance = static_cast<uint32_t>(first + lane);
    const bool small = masks.root_small >> lane & 1, large = masks.root_large >> lane & 1;
    if (!small && !large) {
      near_cull(scene, instance, batch);
      continue;
    }
    const RootCluster& root = scene.roots[scene.lanes.asset[instance]];
    (large ? batch.large : batch.small).push_back({only_view, instance, root.cluster});
    ++batch.stats.visible_instances, ++batch.stats.far_instances, ++batch.stats.candidate_clusters;
    batch.stats.triangles += root.triangles;
  }
  return true;
}

void CullContext::near_cull(const Scene& scene, int64_t i, Batch& batch) const {
  const InstanceSpheres& s = scene.spheres;
  if (s.r[i] < 0) return;  // hidden
  for (int p = 0; options_.frustum && p < 6; ++p)
    if (sphere_misses(world_planes_[p], s.x[i], s.y[i], s.z[i], s.r[i])) return;
  ++batch.stats.visible_instances;
  const Asset& asset = *scene.assets[scene.lanes.asset[i]];
  InstanceView view = make_instance_view(view_, scene, i);
  if (!options_.frustum) view.plane_count = 0;
  node_cull(asset, view, batch);
  cluster_cull(asset, view, static_cast<uint32_t>(i), batch);
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
    (large_cluster(asset, view.lod, c) ? batch.large : batch.small).push_back({only_view, instance, c});
    batch.stats.triangles += asset.clusters[c].triangle_count;
  }
}

}  // namespace nanite_cull
