// What the kernels of a culling pass share: constants, lists and counts in device memory.
#pragma once

#include "core/visible.h"
#include "cull/device_append.cuh"
#include "scene/device_scene.h"

namespace nanite_cull::cuda {

constexpr int cull_threads = 128;  // a block
constexpr int view_lanes = 16;     // of one instance: an entry of its matrix each
constexpr int group_lanes = 16;    // of one group: a cluster each; most groups have 8 to 20
constexpr int most_levels = 64;    // nodes from a root to a leaf

// What a pass counts, in device memory. Zero before it.
struct CullCounts {
  Count entered;  // instances in the frustum
  Count far;      // of these: drawn as their root cluster
  Count
      nodes[most_levels];  // candidates offered to each level; all but the roots in [1] where there are none
  Count visited;           // nodes, where there are no levels
  Count groups;            // offered
  Count offered_clusters, candidate_clusters;  // of groups: of all, and of those that fit
  Count visible;                               // clusters offered to the list of keys
  Count small, large, triangles;               // of those that fit
};

struct CullCapacities {
  uint32_t nodes, groups, visible;
};

// One word for a visible cluster: large, instance, cluster. Their order is that of the words.
struct KeyLayout {
  int instance_bits, cluster_bits;

  HD int bits() const { return instance_bits + cluster_bits + 1; }
  HD uint64_t key(bool large, uint32_t instance, uint32_t cluster) const {
    return uint64_t(large) << (instance_bits + cluster_bits) | uint64_t(instance) << cluster_bits | cluster;
  }
  HD bool large(uint64_t key) const { return key >> (instance_bits + cluster_bits) & 1; }
  HD Visible visible(uint64_t key) const {
    return {0, static_cast<uint32_t>(key >> cluster_bits & ((uint64_t(1) << instance_bits) - 1)),
            static_cast<uint32_t>(key & ((uint64_t(1) << cluster_bits) - 1))};
  }
};
constexpr uint64_t no_key = ~uint64_t(0);  // behind all others

struct CullView {
  BasicView<Wide> view;
  float planes[6][4];  // of the frustum in the world, of unit normals
  bool frustum;        // false: nothing is culled by it
};

// What the kernels of a pass share, in device memory.
struct CullPass {
  SceneArrays scene;
  const CullView* view;
  CullCapacities capacity;
  KeyLayout layout;
  InstanceView* views;  // (instances): of those that were entered
  float* to_clip;       // (instances, 16): the same
  uint32_t* entered;    // (instances)
  uint64_t *from, *to;  // candidate nodes of this level and of the next
  uint64_t* groups;
  uint64_t* keys;
  CullCounts* counts;
};

}  // namespace nanite_cull::cuda
