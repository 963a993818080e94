// Culling on a device, level by level: as many launches as the deepest hierarchy has levels, and four more.
// The host learns no count on the way: every list has a counter in device memory, and each kernel strides
// over what the one before left.
//
//   cull_instances   instances whose sphere meets the frustum
//   enter_instances  what each of them is in this view; those that show no more than their root cluster are
//                    done, of the others the root node is the first candidate
//   cull_nodes       of every candidate node the children in the frustum that may hold the cut
//   cull_clusters    of every group whose parents are too coarse the clusters of the cut
//   place_clusters   after a sort: visible clusters in their order, from both ends of one buffer
//
// Every decision is made by the functions of core/ that the CPU calls, so the clusters are the same; their
// order is made the same by the sort.
#pragma once

#include "core/queue_layout.h"
#include "core/size_class.h"
#include "cull/cull_pass.h"
#include "cull/cull_tests.cuh"

namespace nanite_cull::cuda {

DEV_KERNEL(cull_threads) cull_instances(CullPass pass) {
  const CullView& view = *pass.view;
  const uint32_t count = pass.scene.count;
  for (int64_t first = first_of_warp(32); first < count; first += stride_of_warps(32)) {
    const int64_t i = first + dev::lane();
    bool take = i < count;
    if (take) {
      const Sphere s = pass.scene.spheres[i];
      take = s.r >= 0;  // hidden ones are not
      for (int p = 0; view.frustum && take && p < 6; ++p)
        take = !sphere_misses(view.planes[p], s.x, s.y, s.z, s.r);
    }
    append(take, static_cast<uint32_t>(i), pass.entered, count, &pass.counts->entered);
  }
}

// Visible clusters that a thread found room for.
struct Tally {
  Count small = 0, large = 0, triangles = 0;

  DEV_FN void take(bool taken, bool is_large, uint32_t count) {
    if (!taken) return;
    ++(is_large ? large : small), triangles += count;
  }
  // All lanes of a warp call.
  DEV_FN void add(CullCounts& counts) const {
    add_up(small, &counts.small), add_up(large, &counts.large), add_up(triangles, &counts.triangles);
  }
};

DEV_FN bool append_cluster(bool take, bool large, uint32_t instance, uint32_t cluster, const CullPass& pass) {
  return append(take, pass.layout.key(large, instance, take ? cluster : 0), pass.keys, pass.capacity.visible,
                &pass.counts->visible);
}

// Whether an instance that lies wholly in the frustum shows no more than its root cluster (cull/cull_far.h).
DEV_FN bool is_far(const AssetArrays& asset, const Sphere& s, const LodView& lod, const CullView& view) {
  if (asset.root.cluster == none) return false;
  for (int p = 0; view.frustum && p < 6; ++p)
    if (!sphere_within(view.planes[p], s.x, s.y, s.z, s.r)) return false;
  return !too_coarse(lod, asset.root.own);
}

// A warp works on two instances, 16 lanes each.
DEV_KERNEL(cull_threads) enter_instances(CullPass pass) {
  DEV_SHARED(Wide, matrices, cull_threads);
  const int part = static_cast<int>(threadIdx.x) % view_lanes;
  Wide* const matrix = matrices + (threadIdx.x - part);
  const int64_t count = static_cast<int64_t>(pass.counts->entered);
  const CullView& view = *pass.view;
  Tally tally;
  Count far_count = 0;
  for (int64_t first = first_of_warp(2); first < count; first += stride_of_warps(2)) {
    const int64_t k = first + dev::lane() / view_lanes;
    const bool active = k < count;
    const uint32_t instance = pass.entered[active ? k : first];
    const InstanceRecord& record = pass.scene.instances[instance];
    const AssetArrays& asset = pass.scene.assets[record.asset];
    matrix[part] = clip_entry(view.view, record.placement(), part / 4, part % 4);
    if (active) pass.to_clip[16 * int64_t(instance) + part] = static_cast<float>(matrix[part]);
    __syncwarp();
    InstanceView& out = pass.views[instance];
    if (active && part < 6) frustum_plane(matrix, asset.box, part, out.planes[part]);
    bool far = false, large = false;
    if (active && part == 6) {
      const LodView lod =
          lod_view(view.view, record.translation, record.inverse, record.largest, record.smallest);
      out.lod = lod, out.plane_count = view.frustum ? 6 : 0;
      far = is_far(asset, pass.scene.spheres[instance], lod, view);
      large = far && is_large(lod, asset.root.box.lo, asset.root.box.hi, asset.root.longest_edge);
    }
    const bool decides = active && part == 6;
    append(decides && !far, pack({0, instance, 0}), pass.to, pass.capacity.nodes, &pass.counts->nodes[0]);
    const bool fits = append_cluster(far, large, instance, asset.root.cluster, pass);
    tally.take(far && fits, large, asset.root.triangles);
    far_count += far;
    __syncwarp();  // before the matrices of the next two
  }
  tally.add(*pass.counts), add_up(far_count, &pass.counts->far);
}

// A lane for each child of each candidate of a level.
DEV_KERNEL(cull_threads) cull_nodes(CullPass pass, int level) {
  const int64_t count = filled(pass.counts->nodes[level], pass.capacity.nodes);
  Count offered_clusters = 0;
  for (int64_t first = first_of_warp(4); first < count; first += stride_of_warps(4)) {
    const int64_t k = first + dev::lane() / 8;
    const int i = dev::lane() % 8;
    uint32_t child = none, instance = 0;
    if (k < count) {
      const Candidate from = unpack(pass.from[k]);
      instance = from.instance;
      const AssetArrays& asset = pass.scene.assets[pass.scene.instances[instance].asset];
      const InstanceView& view = pass.views[instance];
      const Node& node = asset.nodes[from.item];
      if (child_wanted(node, i, view)) child = node.child[i];
      if (child != none && child & leaf_bit) {
        const Group& group = asset.groups[child & ~leaf_bit];
        if (!too_coarse(view.lod, group.bounds))
          child = none;
        else
          offered_clusters += group.cluster_count;
      }
    }
    const bool take = child != none, leaf = (child & leaf_bit) != 0;
    const uint64_t word = pack({0, instance, child & ~leaf_bit & (most_items - 1)});
    append(take && !leaf, word, pass.to, pass.capacity.nodes, &pass.counts->nodes[level + 1]);
    append(take && leaf, word, pass.groups, pass.capacity.groups, &pass.counts->groups);
  }
  add_up(offered_clusters, &pass.counts->offered_clusters);
}

// A warp works on two groups, 16 lanes each, a cluster a lane.
DEV_KERNEL(cull_threads) cull_clusters(CullPass pass) {
  const int64_t count = filled(pass.counts->groups, pass.capacity.groups);
  const uint32_t part = threadIdx.x % group_lanes;
  Tally tally;
  Count candidates = 0;
  for (int64_t first = first_of_warp(2); first < count; first += stride_of_warps(2)) {
    const int64_t k = first + dev::lane() / group_lanes;
    const Candidate from = unpack(pass.groups[k < count ? k : first]);
    const AssetArrays& asset = pass.scene.assets[pass.scene.instances[from.instance].asset];
    const InstanceView& view = pass.views[from.instance];
    const Group& group = asset.groups[from.item];
    const uint32_t clusters = k < count ? group.cluster_count : 0;
    const uint32_t most_clusters = most(clusters, __shfl_xor_sync(dev::all_lanes, clusters, group_lanes));
    if (part == 0) candidates += clusters;
    for (uint32_t c = part; c - part < most_clusters; c += group_lanes) {
      const uint32_t cluster = group.cluster_begin + c;
      float lo[3], hi[3];
      const bool take = c < clusters && cluster_wanted(asset, cluster, view, lo, hi);
      const bool large = take && is_large(view.lod, lo, hi, asset.clusters[cluster].longest_edge);
      const bool fits = append_cluster(take, large, from.instance, cluster, pass);
      tally.take(take && fits, large, take ? asset.clusters[cluster].triangle_count : 0);
    }
  }
  tally.add(*pass.counts), add_up(candidates, &pass.counts->candidate_clusters);
}

// Sorted keys to slots: small clusters from the front of the buffer, large ones from its back.
DEV_KERNEL(cull_threads) place_clusters(CullPass pass, Visible* visible) {
  const int64_t small = static_cast<int64_t>(pass.counts->small);
  const int64_t count = small + static_cast<int64_t>(pass.counts->large);
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count())
    visible[i < small ? i : pass.capacity.visible - 1 - (i - small)] = pass.layout.visible(pass.keys[i]);
}

}  // namespace nanite_cull::cuda
