// Far instances, eight at a time: those that lie wholly in the frustum and show no more than the one
// coarsest cluster of their asset. Where that cluster's own error is fine, every error below it is fine
// too (errors are monotone, core/lod.h), so it alone is the cut: no node has to be looked at.
#pragma once

#include "scene/view.h"

namespace nanite_cull {

// What the eight lanes are; a lane in no mask takes the way through the hierarchy.
struct FarMasks {
  uint32_t outside = 0;     // the sphere misses the frustum
  uint32_t root_small = 0;  // the root cluster is the cut, of small triangles
  uint32_t root_large = 0;  // the same, of large ones
};

// Tests instances [first, first + 8), of whatever assets; an asset without a single root has none. `roots`:
// one for each of the scene's assets. `planes` are the frustum's in the world, of unit normals. Same
// arithmetic as the way through the hierarchy, lane by lane. False when this processor has no form of it.
bool test_far(const Scene& scene, const std::vector<RootCluster>& roots, int64_t first, const View& view,
              const float (*planes)[4], bool frustum, FarMasks& out);

}  // namespace nanite_cull
