// Memory order: what ThreadSanitizer must find.
#pragma once

#include "bugs/seeding.cuh"

namespace seeded {

void publish_relaxed(int* item, unsigned* ready, int* out) {
  if (threadIdx.x == 0) {
    *item = 42;
    dev::store_relaxed(ready, 1u);  // should be store_release
  } else {
    while (!dev::load_acquire(ready)) dev::pause();
    *out = *item;
  }
}

CUSIM_CASE(publish_relaxed) {
  Buffer<int> item(1, 0), out(1, 0);
  Buffer<unsigned> ready(1, 0u);
  run(publish_relaxed, 1, 2, 0, &device, item.data(), ready.data(), out.data());
}

void poll_relaxed(int* item, unsigned* ready, int* out) {
  if (threadIdx.x == 0) {
    *item = 42;
    dev::store_release(ready, 1u);
  } else {
    while (!dev::load_relaxed(ready)) dev::pause();  // should be load_acquire
    *out = *item;
  }
}

CUSIM_CASE(poll_relaxed) {
  Buffer<int> item(1, 0), out(1, 0);
  Buffer<unsigned> ready(1, 0u);
  run(poll_relaxed, 1, 2, 0, &device, item.data(), ready.data(), out.data());
}

void count_without_atomics(int* counter) { *counter += 1; }

CUSIM_CASE(count_without_atomics) {
  Buffer<int> counter(1, 0);
  run(count_without_atomics, 2, 32, 0, &device, counter.data());
}

void insert_by_check_then_write(const unsigned long long* keys, int n, unsigned long long* table,
                                unsigned capacity) {
  for (std::int64_t i = dev::thread_index(); i < n; i += dev::thread_count()) {
    unsigned slot = demo::hash_slot(keys[i]) & (capacity - 1);
    while (table[slot] != demo::empty_key && table[slot] != keys[i]) slot = (slot + 1) & (capacity - 1);
    table[slot] = keys[i];  // two keys may have seen the same empty slot
  }
}

CUSIM_CASE(insert_by_check_then_write) {
  std::vector<unsigned long long> keys(500);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i * i * 7919 + 1;
  Buffer<unsigned long long> in(keys), table(1024, demo::empty_key);
  run(insert_by_check_then_write, 2, 64, 0, &device, in.data(), 500, table.data(), 1024u);
}

void reverse_without_barrier(const int* x, int* out) {
  DEV_SHARED(int, tile, 64);
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[63 - threadIdx.x];  // __syncthreads() is missing
}

CUSIM_CASE(reverse_without_barrier) {
  Buffer<int> x(64, 1), out(64, 0);
  run(reverse_without_barrier, 1, 64, 0, &device, x.data(), out.data());
}

void reverse_in_warp_without_syncwarp(const int* x, int* out) {
  DEV_SHARED(int, tile, 32);
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[31 - threadIdx.x] + __shfl_sync(dev::all_lanes, 0, 0);
}

CUSIM_CASE(reverse_in_warp_without_syncwarp) {
  Buffer<int> x(32, 1), out(32, 0);
  run(reverse_in_warp_without_syncwarp, 1, 32, 0, &device, x.data(), out.data());
}

void shuffle_taken_for_a_fence(const int* x, int* out) {
  DEV_SHARED(int, tile, 32);
  tile[threadIdx.x] = x[threadIdx.x];
  const int zero = __shfl_sync(dev::all_lanes, 0, 0);  // orders no memory
  out[threadIdx.x] = tile[31 - threadIdx.x] + zero;
}

CUSIM_CASE(shuffle_taken_for_a_fence) {
  Buffer<int> x(32, 1), out(32, 0);
  run(shuffle_taken_for_a_fence, 1, 32, 0, &device, x.data(), out.data());
}

void second_round_overwrites_shared(const int* x, int* out) {
  DEV_SHARED(int, tile, 64);
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = x[threadIdx.x] + round;  // a barrier is missing after the last read
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
  }
}

CUSIM_CASE(second_round_overwrites_shared) {
  Buffer<int> x(64, 1), out(64, 0);
  run(second_round_overwrites_shared, 1, 64, 0, &device, x.data(), out.data());
}

void block_reads_what_another_block_writes(int* values) {
  if (threadIdx.x == 0) values[blockIdx.x + 1] = values[blockIdx.x] + 1;
}

CUSIM_CASE(block_reads_what_another_block_writes) {
  Buffer<int> values(9, 0);
  run(block_reads_what_another_block_writes, 8, 32, 0, &device, values.data());
}

// The last block sums what all have left, but its counter orders nothing.
void last_block_sums(const int* x, int* partial, unsigned* done, int* out) {
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = x[blockIdx.x];
  if (atomicAdd(done, 1u) + 1 < gridDim.x) return;  // should be fetch_add_acq_rel
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += partial[block];
  *out = sum;
}

CUSIM_CASE(last_block_sums_by_a_relaxed_counter) {
  Buffer<int> x(6, 1), partial(6), out(1, 0);
  Buffer<unsigned> done(1, 0u);
  run(last_block_sums, 6, 32, 0, &device, x.data(), partial.data(), done.data(), out.data());
}

// One lane publishes for its warp, and a vote is no __syncwarp.
void leader_publishes_after_a_vote(int* data, unsigned* ready, int* out) {
  if (blockIdx.x == 0) {
    data[threadIdx.x] = 1;
    (void)__ballot_sync(dev::all_lanes, 1);
    if (threadIdx.x == 0) dev::store_release(ready, 1u);
  } else {
    while (!dev::load_acquire(ready)) dev::pause();
    out[threadIdx.x] = data[31 - threadIdx.x];
  }
}

CUSIM_CASE(leader_publishes_after_a_vote) {
  Buffer<int> data(32, 0), out(32, 0);
  Buffer<unsigned> ready(1, 0u);
  run(leader_publishes_after_a_vote, 2, 32, 0, &device, data.data(), ready.data(), out.data());
}

void two_byte_values_without_barrier(const unsigned short* x, unsigned short* out) {
  DEV_SHARED(unsigned short, tile, 128);
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[threadIdx.x ^ 32];
}

CUSIM_CASE(two_byte_values_without_barrier) {
  Buffer<unsigned short> x(128), out(128);
  run(two_byte_values_without_barrier, 1, 128, 0, &device, x.data(), out.data());
}

void threads_far_apart(int* x, int* out) {
  if (dev::thread_index() == 0) *x = 1;
  if (dev::thread_index() == 6100) *out = *x;
}

CUSIM_CASE(race_of_threads_far_apart) {
  Buffer<int> x(1, 0), out(1, 0);
  run(threads_far_apart, 200, 32, 0, &device, x.data(), out.data());
}

// spconv-lite's prefix sums over more than one tile, without the barrier at the end of a tile: a slow warp
// still reads the sums of the warps while a fast one writes those of the next tile.
void scan_of_tiles_without_last_barrier(int* values, int n) {
  DEV_SHARED(int, warp_sums, 2);
  int start = 0;
  for (int first = 0; first < n; first += 64) {
    const int own = values[first + static_cast<int>(threadIdx.x)];
    int sum = own;
    for (unsigned step = 1; step < 32; step *= 2) {
      const int lower = __shfl_up_sync(dev::all_lanes, sum, step);
      if (dev::lane() >= static_cast<int>(step)) sum += lower;
    }
    if (dev::lane() == 31) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    const int before = threadIdx.x < 32 ? 0 : warp_sums[0];
    values[first + static_cast<int>(threadIdx.x)] = start + before + sum - own;
    start += warp_sums[0] + warp_sums[1];
  }
}

CUSIM_CASE(scan_of_tiles_without_last_barrier) {
  Buffer<int> values(192, 1);
  run(scan_of_tiles_without_last_barrier, 1, 64, 0, &device, values.data(), 192);
}

}  // namespace seeded
