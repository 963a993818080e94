// The memory of a traversal's queues on the CPU: what core/traversal_queue.h asks for, on atomics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/traversal_queue.h"

namespace nanite_cull {

// The compiler's atomics, for C++17 has none on plain words and the words are the device's.
class AtomicQueue {
 public:
  // Throws nothing; capacities are 1 to 2^31 - 1, `batch` at least 1.
  AtomicQueue(uint32_t node_capacity, uint32_t cluster_capacity, uint32_t batch)
      : nodes_(node_capacity, empty_slot),
        clusters_(cluster_capacity),
        committed_((cluster_capacity - 1) / batch + 1),
        batch_(batch) {}

  // Begins a pass with these nodes; those that do not fit are dropped. Clears what the last pass used. No
  // worker may run.
  void begin(const std::vector<uint64_t>& roots) {
    for (uint32_t i = 0; i < used(state_.node_tail, nodes_.size()); ++i) nodes_[i] = empty_slot;
    for (uint32_t i = 0; i < used(state_.cluster_tail, clusters_.size()); i += batch_)
      committed_[i / batch_] = 0;
    state_ = {};
    const uint32_t count = used(static_cast<uint32_t>(roots.size()), nodes_.size());
    for (uint32_t i = 0; i < count; ++i) nodes_[i] = roots[i];
    state_.node_tail = state_.pending_nodes = count;
    state_.dropped_nodes = static_cast<uint32_t>(roots.size()) - count;
  }

  template <class Memory, class Work>
  QueueWorker<Memory, Work> worker() const {
    return QueueWorker<Memory, Work>(static_cast<uint32_t>(nodes_.size()),
                                     static_cast<uint32_t>(clusters_.size()), batch_);
  }
  const QueueState& state() const { return state_; }

  uint32_t add(uint32_t QueueState::* counter, uint32_t n) {
    return __atomic_fetch_add(&(state_.*counter), n, __ATOMIC_RELAXED);
  }
  uint32_t retire(uint32_t n) { return __atomic_fetch_sub(&state_.pending_nodes, n, __ATOMIC_ACQ_REL); }
  uint32_t pending() const { return __atomic_load_n(&state_.pending_nodes, __ATOMIC_ACQUIRE); }
  uint32_t tail() const { return __atomic_load_n(&state_.cluster_tail, __ATOMIC_RELAXED); }
  uint64_t node(uint32_t slot) const { return __atomic_load_n(&nodes_[slot], __ATOMIC_ACQUIRE); }
  void publish(uint32_t slot, uint64_t word) { __atomic_store_n(&nodes_[slot], word, __ATOMIC_RELEASE); }
  void write_cluster(uint32_t slot, uint64_t word) { clusters_[slot] = word; }
  uint64_t read_cluster(uint32_t slot) const { return clusters_[slot]; }
  void commit(uint32_t batch, uint32_t n) { __atomic_fetch_add(&committed_[batch], n, __ATOMIC_RELEASE); }
  uint32_t committed(uint32_t batch) const { return __atomic_load_n(&committed_[batch], __ATOMIC_ACQUIRE); }

 protected:  // the tests break it
  static uint32_t used(uint32_t tail, std::size_t capacity) {
    return tail < capacity ? tail : static_cast<uint32_t>(capacity);
  }

  QueueState state_ = {};
  std::vector<uint64_t> nodes_, clusters_;
  std::vector<uint32_t> committed_;
  uint32_t batch_;
};

}  // namespace nanite_cull
