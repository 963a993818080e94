// What the kernels of a culling pass share: constants, lists and counts in device memory.
#pragma once

#include "core/occlusion.h"
#include "core/visible.h"
#include "cull/device_append.cuh"
#include "scene/device_scene.h"

namespace nanite_cull::cuda {

constexpr int cull_threads = 128;  // a block
constexpr int cull_blocks = 4;     // leave 128 registers a thread; unasked, ptxas spills for six on sm_120
constexpr int view_lanes = 16;     // of one instance: an entry of its matrix each
constexpr int group_lanes = 16;    // of one group: a cluster each; most groups have 8 to 20
constexpr int most_levels = 64;    // nodes from a root to a leaf

// What a pass counts, in device memory. Zero before it.
struct CullCounts {
  Count entered;             // instances in the frustum, in each view
  Count far;                 // of these: drawn as their root cluster
  Count nodes[most_levels];  // candidates offered to each level; without levels all but the roots in [1]
  Count visited;             // nodes, where there are no levels
  Count groups;              // offered
  Count offered_clusters, candidate_clusters;  // of groups: of all, and of those that fit
  Count visible;                               // clusters offered to the list of keys
  Count small, large, triangles;               // of those that fit
  Count hidden_instances, hidden_nodes, hidden_clusters;
};

// Where the clusters of a sorted list are in a buffer of `capacity` slots.
struct SlotOrder {
  int64_t small, count;
  uint32_t capacity;

  HD SlotOrder(const CullCounts& counts, uint32_t slots)
      : small(static_cast<int64_t>(counts.small)),
        count(small + static_cast<int64_t>(counts.large)),
        capacity(slots) {}
  HD uint32_t slot(int64_t i) const {
    return static_cast<uint32_t>(i < small ? i : capacity - 1 - (i - small));
  }
  HD int64_t place(uint32_t slot) const { return slot < small ? slot : small + (capacity - 1 - slot); }
};

// Where a key is, or would be, in a sorted list.
HD inline int64_t place_in(const uint64_t* keys, int64_t count, uint64_t key) {
  int64_t first = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    const bool behind = keys[first + half] < key;
    first = behind ? first + half + 1 : first;
    count = behind ? count - half - 1 : half;
  }
  return first;
}

struct CullCapacities {
  uint32_t nodes, groups, visible;
};

// One word for a visible cluster: large, view, instance, cluster. Their order is that of the words.
struct KeyLayout {
  int view_bits, instance_bits, cluster_bits;

  HD int bits() const { return view_bits + instance_bits + cluster_bits + 1; }
  HD uint64_t key(bool large, uint32_t view, uint32_t instance, uint32_t cluster) const {
    const uint64_t place = uint64_t(view) << instance_bits | instance;
    return uint64_t(large) << (bits() - 1) | place << cluster_bits | cluster;
  }
  HD Visible visible(uint64_t key) const {
    return {part(key, instance_bits + cluster_bits, view_bits), part(key, cluster_bits, instance_bits),
            part(key, 0, cluster_bits)};
  }

 private:
  HD static uint32_t part(uint64_t key, int first, int bits) {
    return static_cast<uint32_t>(key >> first & ((uint64_t(1) << bits) - 1));
  }
};
constexpr uint64_t no_key = ~uint64_t(0);  // behind all others

// What hides: the last frame's pyramid, the view it was made with and where instances were then; in the post
// pass also the pyramid of what the main pass drew. Without levels they hide nothing.
struct DeviceOccluders {
  Hzb before, now;
  BasicView<Wide> view_before;
  const InstanceRecord* places_before;
  uint32_t count_before;  // instances that were there
  bool post;              // of all views alike
};

// One instance in those views.
struct InstanceSight {
  OcclusionView before, now;
};

struct CullView {
  BasicView<Wide> view;
  float planes[6][4];  // of the frustum in the world, of unit normals
  bool frustum;        // false: nothing is culled by it
  DeviceOccluders occluders;
};

// What the kernels of a pass share, in device memory. An instance in a view is `seen`, numbered view by view.
struct CullPass {
  SceneArrays scene;
  const CullView* cameras;  // (views)
  uint32_t seen_count;      // views * instances
  CullCapacities capacity;
  KeyLayout layout;
  InstanceView* views;    // (seen): of those that were entered
  float* to_clip;         // (seen, 16): the same
  InstanceSight* sights;  // (seen): the same; null without occluders
  uint32_t* entered;      // (seen)
  uint64_t *from, *to;    // candidate nodes of this level and of the next
  uint64_t* groups;
  uint64_t* keys;
  CullCounts* counts;

  HD uint32_t seen(uint32_t view, uint32_t instance) const { return view * scene.count + instance; }
  HD uint32_t view_of(uint32_t seen) const { return seen / scene.count; }
  HD uint32_t instance_of(uint32_t seen) const { return seen % scene.count; }
};

}  // namespace nanite_cull::cuda
