// Which clusters are simplified together, and which vertices they must leave alone.
#pragma once

#include "build/build.h"
#include "build/pool.h"

namespace nanite_cull {

// Members of each group: `members` lists cluster indices, group g owns [begin[g], begin[g + 1]).
struct Grouping {
  std::vector<uint32_t> members, begin;
  size_t size() const { return begin.size() - 1; }
};

// Groups of neighbouring clusters: meshoptimizer's partition; then groups below four clusters, which
// have no neighbour left to join (separate parts), are merged along a space-filling curve.
// A pool of at most 32 clusters is one group.
Grouping group_clusters(const WeldedMesh& mesh, const ClusterPool& pool, int target);

// For each position: 1 where clusters of two or more groups use it, or where the user locked it.
std::vector<uint8_t> lock_borders(const WeldedMesh& mesh, const ClusterPool& pool, const Grouping& grouping,
                                  int threads);

// 30 bits of Morton order of a point inside a box.
uint32_t morton(const float* point, const float* lo, float inverse_extent);

// Stable order of keys, by radix.
std::vector<uint32_t> sorted_order(const std::vector<uint32_t>& keys);

}  // namespace nanite_cull
