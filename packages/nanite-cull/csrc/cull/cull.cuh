// Culling on a device, level by level: as many launches as the deepest hierarchy has levels, and five more.
// The host learns no count on the way: every list has a counter in device memory, and each kernel strides
// over what the one before left.
//
//   cull_instances   instances whose sphere meets the frustum, in each view
//   enter_instances  what each of them is in this view
//   begin_instances  those that show no more than their root cluster are done, of the others the root node is
//                    the first candidate
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
  const uint32_t count = pass.seen_count;
  for (int64_t first = first_of_warp(32); first < count; first += stride_of_warps(32)) {
    const int64_t i = first + dev::lane();
    const auto seen = static_cast<uint32_t>(i);
    bool take = i < count;
    if (take) {
      const CullView& view = pass.cameras[pass.view_of(seen)];
      const Sphere s = pass.scene.spheres[pass.instance_of(seen)];
      take = s.r >= 0;  // hidden ones are not
      for (int p = 0; view.frustum && take && p < 6; ++p)
        take = !sphere_misses(view.planes[p], s.x, s.y, s.z, s.r);
    }
    append(take, seen, pass.entered, count, &pass.counts->entered);
  }
}

// Visible clusters that a thread found room for.
struct Tally {
  uint32_t small = 0, large = 0, triangles = 0;  // of one thread: far from their end

  DEV_FN void take(bool taken, bool is_large, uint32_t count) {
    if (!taken) return;
    ++(is_large ? large : small), triangles += count;
  }
  // All lanes of a warp call.
  DEV_FN void add(CullCounts& counts) const {
    add_up(small, &counts.small), add_up(large, &counts.large), add_up(triangles, &counts.triangles);
  }
};

DEV_FN bool append_cluster(bool take, bool large, uint32_t view, uint32_t instance, uint32_t cluster,
                           const CullPass& pass) {
  return append(take, pass.layout.key(large, view, instance, take ? cluster : 0), pass.keys,
                pass.capacity.visible, &pass.counts->visible);
}

// Whether an instance that lies wholly in the frustum shows no more than its root cluster (cull/cull_far.h).
DEV_FN bool is_far(const AssetArrays& asset, const Sphere& s, const LodView& lod, const CullView& view) {
  if (asset.root.cluster == none) return false;
  for (int p = 0; view.frustum && p < 6; ++p)
    if (!sphere_within(view.planes[p], s.x, s.y, s.z, s.r)) return false;
  return !too_coarse(lod, asset.root.own);
}

// What occlusion tests need of an instance: its lanes bring an entry each.
DEV_FN void enter_sight(const CullPass& pass, uint32_t seen, const Box& box, const Wide* now, Wide* before,
                        int part, bool active) {
  if (!pass.sights) return;  // the same for all
  const CullView& camera = pass.cameras[pass.view_of(seen)];
  const DeviceOccluders& by = camera.occluders;
  const uint32_t instance = pass.instance_of(seen);
  InstanceSight& out = pass.sights[seen];
  const bool was_there = instance < by.count_before;
  const InstanceRecord& record = was_there ? by.places_before[instance] : pass.scene.instances[instance];
  before[part] = clip_entry(by.view_before, record.placement(), part / 4, part % 4);
  __syncwarp();
  if (!active) return;
  out.before.to_clip[part] = static_cast<float>(before[part]);
  out.now.to_clip[part] = static_cast<float>(now[part]);
  if (part < 4) out.before.slack[part] = clip_slack_of(before, box, part);
  if (part >= 4 && part < 8) out.now.slack[part - 4] = clip_slack_of(now, box, part - 4);
  if (part > 0) return;
  out.before.half_x = static_cast<float>(by.view_before.width) * 0.5f;
  out.before.half_y = static_cast<float>(by.view_before.height) * 0.5f;
  out.now.half_x = static_cast<float>(camera.view.width) * 0.5f;
  out.now.half_y = static_cast<float>(camera.view.height) * 0.5f;
}

// A warp works on two instances, 16 lanes each.
DEV_KERNEL(cull_threads) enter_instances(CullPass pass) {
  DEV_SHARED(Wide, matrices, 2 * cull_threads);
  const int part = static_cast<int>(threadIdx.x) % view_lanes;
  Wide* const matrix = matrices + 2 * (static_cast<int>(threadIdx.x) - part);
  const int64_t count = static_cast<int64_t>(pass.counts->entered);
  for (int64_t first = first_of_warp(2); first < count; first += stride_of_warps(2)) {
    const int64_t k = first + dev::lane() / view_lanes;
    const bool active = k < count;
    const uint32_t seen = pass.entered[active ? k : first];
    const CullView& view = pass.cameras[pass.view_of(seen)];
    const InstanceRecord& record = pass.scene.instances[pass.instance_of(seen)];
    const Box& box = pass.scene.assets[record.asset].box;
    matrix[part] = clip_entry(view.view, record.placement(), part / 4, part % 4);
    if (active) pass.to_clip[16 * int64_t(seen) + part] = static_cast<float>(matrix[part]);
    __syncwarp();
    InstanceView& out = pass.views[seen];
    if (active && part < 6) frustum_plane(matrix, box, part, out.planes[part]);
    if (active && part == 6) {
      out.lod = lod_view(view.view, record.translation, record.inverse, record.largest, record.smallest);
      out.plane_count = view.frustum ? 6 : 0;
    }
    enter_sight(pass, seen, box, matrix, matrix + view_lanes, part, active);
    __syncwarp();  // before the matrices of the next two
  }
}

// A thread an instance.
DEV_KERNEL(cull_threads, cull_blocks) begin_instances(CullPass pass) {
  const int64_t count = static_cast<int64_t>(pass.counts->entered);
  Tally tally;
  uint32_t far_count = 0, hidden = 0;
  for (int64_t first = first_of_warp(32); first < count; first += stride_of_warps(32)) {
    const int64_t k = first + dev::lane();
    const uint32_t seen = pass.entered[k < count ? k : first];
    const uint32_t view = pass.view_of(seen), instance = pass.instance_of(seen);
    const AssetArrays& asset = pass.scene.assets[pass.scene.instances[instance].asset];
    const LodView& lod = pass.views[seen].lod;
    bool far = false, large = false, near = false;
    Sight sight = Sight::hidden;
    if (k < count) {
      far = is_far(asset, pass.scene.spheres[instance], lod, pass.cameras[view]);
      const Box& box = far ? asset.root.box : asset.box;
      sight = look_at(pass, view, instance, box.lo, box.hi, far ? cluster_widening : node_widening, false);
      large = far && is_large(lod, box.lo, box.hi, asset.root.longest_edge);
      near = !far && sight != Sight::hidden;
      far_count += far, hidden += sight == Sight::hidden;
    }
    append(near, pack({view, instance, 0, sight == Sight::missed}), pass.to, pass.capacity.nodes,
           &pass.counts->nodes[0]);
    const bool take = far && sight == drawn_by(pass);
    const bool fits = append_cluster(take, large, view, instance, asset.root.cluster, pass);
    tally.take(take && fits, large, asset.root.triangles);
  }
  tally.add(*pass.counts), add_up(far_count, &pass.counts->far),
      add_up(hidden, &pass.counts->hidden_instances);
}

// A lane for each child of each candidate of a level.
DEV_KERNEL(cull_threads, cull_blocks) cull_nodes(CullPass pass, int level) {
  const int64_t count = filled(pass.counts->nodes[level], pass.capacity.nodes);
  uint32_t offered_clusters = 0, hidden = 0;
  for (int64_t first = first_of_warp(4); first < count; first += stride_of_warps(4)) {
    const int64_t k = first + dev::lane() / 8;
    const int i = dev::lane() % 8;
    uint32_t child = none;
    Candidate from{};
    Sight sight = Sight::hidden;
    if (k < count) {
      from = unpack(pass.from[k]);
      const AssetArrays& asset = pass.scene.assets[pass.scene.instances[from.instance].asset];
      const InstanceView& view = pass.views[pass.seen(from.view, from.instance)];
      const Node& node = asset.nodes[from.item];
      if (child_wanted(node, i, view)) {
        sight = look_at_child(pass, from, node, i);
        hidden += sight == Sight::hidden;
        if (sight != Sight::hidden) child = node.child[i];
      }
      if (child != none && child & leaf_bit) {
        const uint32_t group = child & ~leaf_bit;
        if (!expands(asset, view.lod, group))
          child = none;
        else
          offered_clusters += asset.groups[group].cluster_count;
      }
    }
    const bool take = child != none, leaf = (child & leaf_bit) != 0;
    const uint64_t word =
        pack({from.view, from.instance, child & ~leaf_bit & (most_items - 1), sight == Sight::missed});
    append(take && !leaf, word, pass.to, pass.capacity.nodes, &pass.counts->nodes[level + 1]);
    append(take && leaf, word, pass.groups, pass.capacity.groups, &pass.counts->groups);
  }
  add_up(offered_clusters, &pass.counts->offered_clusters), add_up(hidden, &pass.counts->hidden_nodes);
}

// A warp works on two groups, 16 lanes each, a cluster a lane.
DEV_KERNEL(cull_threads, cull_blocks) cull_clusters(CullPass pass) {
  const int64_t count = filled(pass.counts->groups, pass.capacity.groups);
  const uint32_t part = threadIdx.x % group_lanes;
  Tally tally;
  uint32_t candidates = 0, hidden = 0;
  for (int64_t first = first_of_warp(2); first < count; first += stride_of_warps(2)) {
    const int64_t k = first + dev::lane() / group_lanes;
    const Candidate from = unpack(pass.groups[k < count ? k : first]);
    const AssetArrays& asset = pass.scene.assets[pass.scene.instances[from.instance].asset];
    const InstanceView& view = pass.views[pass.seen(from.view, from.instance)];
    const Group& group = asset.groups[from.item];
    const uint32_t clusters = k < count ? group.cluster_count : 0;
    const uint32_t most_clusters = most(clusters, __shfl_xor_sync(dev::all_lanes, clusters, group_lanes));
    if (part == 0) candidates += clusters;
    for (uint32_t c = part; c - part < most_clusters; c += group_lanes) {
      const uint32_t cluster = group.cluster_begin + c;
      float lo[3], hi[3];
      bool take = c < clusters && cluster_wanted(asset, cluster, view, lo, hi);
      if (take) {
        const Sight sight = look_at(pass, from.view, from.instance, lo, hi, cluster_widening, from.missed);
        hidden += sight == Sight::hidden, take = sight == drawn_by(pass);
      }
      const bool large = take && is_large(view.lod, lo, hi, asset.clusters[cluster].longest_edge);
      const bool fits = append_cluster(take, large, from.view, from.instance, cluster, pass);
      tally.take(take && fits, large, take ? asset.clusters[cluster].triangle_count : 0);
    }
  }
  tally.add(*pass.counts), add_up(candidates, &pass.counts->candidate_clusters);
  add_up(hidden, &pass.counts->hidden_clusters);
}

// One thread: the post pass goes on with the list of the main pass.
DEV_KERNEL(1) begin_post_pass(const CullCounts* main, CullCounts* post) {
  post->visible = main->visible, post->triangles = main->triangles;
  post->small = main->small, post->large = main->large;
}

// Sorted keys to slots: small clusters from the front of the buffer, large ones from its back.
DEV_KERNEL(cull_threads) place_clusters(CullPass pass, Visible* visible) {
  const SlotOrder order(*pass.counts, pass.capacity.visible);
  for (int64_t i = dev::thread_index(); i < order.count; i += dev::thread_count())
    visible[order.slot(i)] = pass.layout.visible(pass.keys[i]);
}

// Slots of the clusters that the post pass brought: small ones and large ones.
DEV_KERNEL(cull_threads)
list_added(const uint64_t* keys, CullPass pass, const CullCounts* main, uint32_t* small, uint32_t* large,
           Count* listed) {
  const SlotOrder order(*pass.counts, pass.capacity.visible), before(*main, pass.capacity.visible);
  for (int64_t first = first_of_warp(32); first < order.count; first += stride_of_warps(32)) {
    const int64_t i = first + dev::lane();
    bool take = i < order.count;
    if (take) {
      const int64_t at = place_in(keys, before.count, pass.keys[i]);
      take = at == before.count || keys[at] != pass.keys[i];
    }
    append(take && i < order.small, order.slot(i), small, pass.capacity.visible, &listed[0]);
    append(take && i >= order.small, order.slot(i), large, pass.capacity.visible, &listed[1]);
  }
}

}  // namespace nanite_cull::cuda
