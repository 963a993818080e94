// The queue of a traversal as memory: candidates as 64-bit words, counters side by side. A slot holds
// `empty_slot` until its candidate is there, for reserved is not written; no candidate has that value.
#pragma once

#include <cstdint>

#include "core/hd.h"

namespace nanite_cull {

constexpr uint64_t empty_slot = ~uint64_t(0);
constexpr int candidate_view_bits = 8, candidate_item_bits = 23;  // one: missed; the rest: the instance
constexpr uint32_t most_views = (1u << candidate_view_bits) - 1;  // one less: the sentinel's
constexpr uint32_t most_items = 1u << candidate_item_bits;        // nodes or groups of an asset

// A node, or a group of clusters, of an instance in a view.
struct Candidate {
  uint32_t view, instance, item;
  bool missed = false;  // in a post pass: the main pass did not come as far
};

HD constexpr uint64_t pack(const Candidate& c) {
  return uint64_t(c.view) << (64 - candidate_view_bits) | uint64_t(c.instance) << (candidate_item_bits + 1) |
         uint64_t(c.missed) << candidate_item_bits | c.item;
}
HD constexpr Candidate unpack(uint64_t word) {
  return {static_cast<uint32_t>(word >> (64 - candidate_view_bits)),
          static_cast<uint32_t>(word >> (candidate_item_bits + 1)),
          static_cast<uint32_t>(word & (most_items - 1)), (word >> candidate_item_bits & 1) != 0};
}

// Where producers and consumers are. Totals only grow within a pass; what did not fit is counted.
struct QueueState {
  uint32_t node_tail, node_head;  // reserved, claimed
  uint32_t pending_nodes;         // waiting or being worked on: at zero no more will come
  uint32_t cluster_tail, cluster_head;
  uint32_t dropped_nodes, dropped_clusters;
  uint32_t unused;
};
static_assert(sizeof(QueueState) == 32, "records have no padding");

}  // namespace nanite_cull
