// What decides about a child of a node and a cluster of a group, for every order of going through them.
#pragma once

#include "core/queue_layout.h"
#include "core/requests.h"
#include "core/size_class.h"
#include "cull/cull_pass.h"

namespace nanite_cull::cuda {

// What this pass knows of a box of an instance in a view (cull/occlusion.h). `missed`: the main pass did not
// come as far.
DEV_FN Sight look_at(const CullPass& pass, uint32_t view, uint32_t instance, const float* lo, const float* hi,
                     float widening, bool missed) {
  if (!pass.sights) return Sight::seen;
  const DeviceOccluders& by = pass.cameras[view].occluders;
  const InstanceSight& sight = pass.sights[pass.seen(view, instance)];
  if (by.post && occluded(sight.now, by.now, lo, hi, widening)) return Sight::hidden;
  if (!missed)
    missed = by.before.levels > 0 && instance < by.count_before &&
             occluded(sight.before, by.before, lo, hi, widening);
  return !missed ? Sight::seen : by.post ? Sight::missed : Sight::hidden;
}

// What a pass draws.
DEV_FN Sight drawn_by(const CullPass& pass) {
  return pass.cameras->occluders.post ? Sight::missed : Sight::seen;
}

// The child of a node that a lane looks at: box and errors stand side by side with its neighbours'.
DEV_FN bool child_wanted(const Node& n, int i, const InstanceView& view) {
  return n.child[i] != none && too_coarse(view.lod, n.x[i], n.y[i], n.z[i], n.r[i], n.max_parent_error[i]) &&
         may_be_fine(view.lod, n.x[i], n.y[i], n.z[i], n.r[i], n.min_own_error[i]) &&
         box_in_frustum(view, n.lo[0][i], n.lo[1][i], n.lo[2][i], n.hi[0][i], n.hi[1][i], n.hi[2][i]);
}

DEV_FN Sight look_at_child(const CullPass& pass, const Candidate& from, const Node& n, int i) {
  const float lo[3] = {n.lo[0][i], n.lo[1][i], n.lo[2][i]}, hi[3] = {n.hi[0][i], n.hi[1][i], n.hi[2][i]};
  return look_at(pass, from.view, from.instance, lo, hi, node_widening, from.missed);
}

// Whether the clusters of a group are candidates: their parents are too coarse.
DEV_FN bool expands(const AssetArrays& asset, const LodView& lod, uint32_t g) {
  const LodBounds& bounds = asset.groups[g].bounds;
  if (asset.wishes) {
    const float pixels = pixels_without(lod, bounds);
    const uint32_t word = pixels > 0 ? request_word(asset.wish_frame, pixels) : 0;
    if (word > dev::load_relaxed(asset.wishes + g)) atomicMax(asset.wishes + g, word);
  }
  return too_coarse(lod, bounds);
}

// Whether a cluster is in the cut and in view; its parents are too coarse.
DEV_FN bool cluster_wanted(const AssetArrays& a, uint32_t c, const InstanceView& view, float* lo, float* hi) {
  if (too_coarse(view.lod, a.bound(row_x, c), a.bound(row_y, c), a.bound(row_z, c), a.bound(row_r, c),
                 a.bound(row_error, c)))
    return false;
  for (int axis = 0; axis < 3; ++axis) {
    lo[axis] = a.bound(row_lo + axis, c);
    hi[axis] = a.bound(row_hi + axis, c);
  }
  return box_in_frustum(view, lo[0], lo[1], lo[2], hi[0], hi[1], hi[2]);
}

}  // namespace nanite_cull::cuda
