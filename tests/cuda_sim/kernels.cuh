// Four kernels that show how to write for both compilers, and that the simulator must find clean:
// a persistent work queue, a 64-bit hash insert, a block reduction, a software grid barrier.
#pragma once

#include "native/device.h"

namespace demo {

// ---- persistent work queue over a complete tree ----

// Slots are taken in order by consumers, perhaps before a producer has filled them: `ready` says when.
struct Queue {
  unsigned *head, *tail;  // next slot to take, next slot to fill
  unsigned* open;         // items pushed and not yet finished; 0 ends the traversal
  unsigned* ready;        // per slot: 1 once `item` may be read
  unsigned* item;         // per slot: a node of the tree
  unsigned capacity;
};

DEV_FN void push(const Queue& q, unsigned node) {
  const unsigned slot = atomicAdd(q.tail, 1u);
  DEV_ASSERT(slot < q.capacity);
  q.item[slot] = node;
  dev::store_release(q.ready + slot, 1u);  // publishes the item
}

// Visits every node of the tree whose node v has the children v*degree+1 .. v*degree+degree below
// `nodes`, and counts the visits of each.
DEV_KERNEL(64) traverse_tree(Queue q, unsigned degree, unsigned nodes, unsigned* visits) {
  for (;;) {
    const unsigned slot = atomicAdd(q.head, 1u);
    if (slot >= q.capacity) return;
    while (!dev::load_acquire(q.ready + slot)) {
      if (dev::load_acquire(q.open) == 0) return;
      dev::pause();
    }
    const unsigned node = q.item[slot];
    atomicAdd(visits + node, 1u);
    for (unsigned c = 0; c < degree; ++c) {
      const unsigned child = node * degree + c + 1;
      if (child >= nodes) break;
      atomicAdd(q.open, 1u);
      push(q, child);
    }
    dev::fetch_add_acq_rel(q.open, ~0u);  // less one, after the children are counted
  }
}

// ---- 64-bit open-addressing hash insert ----

constexpr unsigned long long empty_key = ~0ull;

DEV_WRAPS HD unsigned hash_slot(unsigned long long key) {  // Fibonacci hashing
  return static_cast<unsigned>((key * 0x9e3779b97f4a7c15ull) >> 32);
}

// Inserts n keys; value[slot] becomes the least index that had the key. `failures` counts keys that
// found no slot within the capacity (a power of two).
DEV_KERNEL(128)
hash_insert(const unsigned long long* keys, int n, unsigned long long* table, int* value, unsigned capacity,
            unsigned* failures) {
  for (std::int64_t i = dev::thread_index(); i < n; i += dev::thread_count()) {
    const unsigned long long key = keys[i];
    unsigned slot = hash_slot(key) & (capacity - 1);
    unsigned probes = 0;
    for (; probes < capacity; ++probes, slot = (slot + 1) & (capacity - 1)) {
      const unsigned long long seen = atomicCAS(table + slot, empty_key, key);
      if (seen == empty_key || seen == key) break;
    }
    if (probes == capacity)
      atomicAdd(failures, 1u);
    else
      atomicMin(value + slot, static_cast<int>(i));
  }
}

// ---- block reduction ----

DEV_FN int warp_sum(int x) {
  for (unsigned step = 16; step > 0; step /= 2) x += __shfl_down_sync(dev::all_lanes, x, step);
  return x;
}

// sum[block] = sum of the block's share of x. The block must be a multiple of 32 threads.
DEV_KERNEL(256) block_reduce(const int* x, int n, int* sum) {
  DEV_SHARED(int, part, 32);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  int mine = 0;
  for (std::int64_t i = dev::thread_index(); i < n; i += dev::thread_count()) mine += x[i];
  mine = warp_sum(mine);
  if (dev::lane() == 0) part[warp] = mine;
  __syncthreads();
  if (warp == 0) {
    mine = warp_sum(dev::lane() < warps ? part[dev::lane()] : 0);
    if (dev::lane() == 0) sum[blockIdx.x] = mine;
  }
}

// ---- software grid barrier ----

// Every block must be resident at once: launch no more blocks than fit on the device.
DEV_FN void grid_barrier(unsigned* arrived, unsigned round) {
  __syncthreads();
  if (threadIdx.x == 0) {
    dev::fetch_add_acq_rel(arrived, 1u);
    while (dev::load_acquire(arrived) < round * gridDim.x) dev::pause();
  }
  __syncthreads();
}

// Each round every block adds its neighbour's last value to its own: wrong unless all wait for all.
DEV_KERNEL(64)
ring_sum(int* values, unsigned* arrived, int rounds) {
  const unsigned next = (blockIdx.x + 1) % gridDim.x;
  for (int r = 0; r < rounds; ++r) {
    const int* from = values + (r % 2) * gridDim.x;
    int* to = values + ((r + 1) % 2) * gridDim.x;
    if (threadIdx.x == 0) to[blockIdx.x] = from[blockIdx.x] + from[next];
    grid_barrier(arrived, static_cast<unsigned>(r + 1));
  }
}

}  // namespace demo
