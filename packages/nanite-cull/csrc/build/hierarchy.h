// The tree over groups that a traversal descends.
#pragma once

#include "build/asset.h"

namespace nanite_cull {

// Builds asset.nodes, depth, box and sphere from its groups and clusters. One tree for each pass, joined
// under a top tree with the coarsest pass first, so that a far instance is done after one or two nodes.
void build_hierarchy(Asset& asset);

// Box, sphere and depth from the nodes, which are sound.
void finish_hierarchy(Asset& asset);

// The nearest bfloat16 not below / not above x, as a float. Infinity stays.
float bfloat16_up(float x);
float bfloat16_down(float x);

}  // namespace nanite_cull
