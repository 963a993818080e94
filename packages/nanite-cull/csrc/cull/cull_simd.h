// The two inner tests of culling, eight boxes at a time. Both forms give the same bits.
#pragma once

#include "scene/view.h"

namespace nanite_cull {

// Bit i: child i exists, its box meets the frustum, and its part of the tree may hold the cut.
uint32_t visible_children(const Node& node, const InstanceView& view);

// Bit i: cluster first + i (i < count <= 8) has a box in the frustum and an own error that is fine.
// Its parent's error is the caller's test: all clusters of a group share it.
uint32_t visible_clusters(const ClusterBounds& bounds, uint32_t first, uint32_t count,
                          const InstanceView& view);

}  // namespace nanite_cull
