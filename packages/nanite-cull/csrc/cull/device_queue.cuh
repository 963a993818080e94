// The memory of a traversal's queues on a device: what core/traversal_queue.h asks for, at device scope.
#pragma once

#include <native/device.h>

#include "core/traversal_queue.h"

namespace nanite_cull::cuda {

struct DeviceQueue {
  QueueState* state;
  uint64_t *nodes, *clusters;
  uint32_t* commits;  // of each batch of clusters

  DEV_FN uint32_t add(uint32_t QueueState::* counter, uint32_t n) const {
    return atomicAdd(&(state->*counter), n);
  }
  DEV_FN uint32_t retire(uint32_t n) const {
    return dev::fetch_add_acq_rel(&state->pending_nodes, static_cast<uint32_t>(-static_cast<int64_t>(n)));
  }
  DEV_FN uint32_t pending() const { return dev::load_acquire(&state->pending_nodes); }
  DEV_FN uint32_t tail() const { return dev::load_relaxed(&state->cluster_tail); }
  DEV_FN uint64_t node(uint32_t slot) const { return dev::load_acquire(nodes + slot); }
  DEV_FN void publish(uint32_t slot, uint64_t word) const { dev::store_release(nodes + slot, word); }
  DEV_FN void write_cluster(uint32_t slot, uint64_t word) const { clusters[slot] = word; }
  DEV_FN uint64_t read_cluster(uint32_t slot) const { return clusters[slot]; }
  DEV_FN void commit(uint32_t batch, uint32_t n) const { dev::fetch_add_acq_rel(commits + batch, n); }
  DEV_FN uint32_t committed(uint32_t batch) const { return dev::load_acquire(commits + batch); }
};

}  // namespace nanite_cull::cuda
