// Seeded bugs: each case is a kernel with one mistake, and test_simulator.py says who must find it.
// They are what the simulator is tested with; nothing here is an example to follow.
#include "cusim_test.h"
#include "kernels.cuh"

using cusim::Buffer;

namespace {

// ---- memory order: ThreadSanitizer ----

void publish_relaxed(int* item, unsigned* ready, int* out) {
  if (threadIdx.x == 0) {
    *item = 42;
    dev::store_relaxed(ready, 1u);  // should be store_release
  } else {
    while (!dev::load_acquire(ready)) dev::pause();
    *out = *item;
  }
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

void count_without_atomics(int* counter) { *counter += 1; }

void insert_by_check_then_write(const unsigned long long* keys, int n, unsigned long long* table,
                                unsigned capacity) {
  for (std::int64_t i = dev::thread_index(); i < n; i += dev::thread_count()) {
    unsigned slot = demo::hash_slot(keys[i]) & (capacity - 1);
    while (table[slot] != demo::empty_key && table[slot] != keys[i]) slot = (slot + 1) & (capacity - 1);
    table[slot] = keys[i];  // two keys may have seen the same empty slot
  }
}

void reverse_without_barrier(const int* x, int* out) {
  DEV_SHARED(int, tile, 64);
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[63 - threadIdx.x];  // __syncthreads() is missing
}

void reverse_in_warp_without_syncwarp(const int* x, int* out) {
  DEV_SHARED(int, tile, 32);
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[31 - threadIdx.x] + __shfl_sync(dev::all_lanes, 0, 0);
}

void shuffle_taken_for_a_fence(const int* x, int* out) {
  DEV_SHARED(int, tile, 32);
  tile[threadIdx.x] = x[threadIdx.x];
  const int zero = __shfl_sync(dev::all_lanes, 0, 0);  // orders no memory
  out[threadIdx.x] = tile[31 - threadIdx.x] + zero;
}

void second_round_overwrites_shared(const int* x, int* out) {
  DEV_SHARED(int, tile, 64);
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = x[threadIdx.x] + round;  // a barrier is missing after the last read
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
  }
}

void block_reads_what_another_block_writes(int* values) {
  if (threadIdx.x == 0) values[blockIdx.x + 1] = values[blockIdx.x] + 1;
}

// ---- addresses and arithmetic: AddressSanitizer, UndefinedBehaviorSanitizer ----

void scale_without_bounds_check(float* x) { x[dev::thread_index()] *= 2.0f; }

void shared_array_one_too_short(int* out) {
  DEV_SHARED(int, tile, 63);
  tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

void dynamic_shared_one_too_short(int* out) {
  DEV_DYNAMIC_SHARED(int, tile);
  tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

void index_beyond_31_bits(int rows, int* out) {
  const int offset = rows * 27;  // should be 64 bits
  if (threadIdx.x == 0) out[0] = offset < 0;
}

struct alignas(16) Four {
  float v[4];
};

void wide_load_from_an_odd_row(const float* x, float* out) {
  const Four* row = reinterpret_cast<const Four*>(x + 3 * threadIdx.x);
  out[threadIdx.x] = row->v[0];
}

// ---- block and warp operations: the simulator ----

void barrier_in_a_divergent_branch(int* out) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

void barrier_after_some_have_left(int* out) {
  if (threadIdx.x >= 48) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

void lane_outside_its_own_mask(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }

void mask_names_lanes_that_left(int* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = static_cast<int>(__ballot_sync(dev::all_lanes, 1));
}

void lanes_disagree_on_the_operation(int* out) {
  if (threadIdx.x < 16)
    out[threadIdx.x] = static_cast<int>(__ballot_sync(dev::all_lanes, 1));
  else
    __syncwarp();
}

void shuffle_from_a_lane_outside_the_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0x0000ffffu, 1, 8u);
}

void warp_operation_in_a_short_warp(int* out) {  // launched with 40 threads
  out[threadIdx.x] = __any_sync(dev::all_lanes, 1);
}

void promise_broken(int* out) {
  DEV_ASSERT(threadIdx.x < 5);
  out[threadIdx.x] = 1;
}

void shared_array_too_large(int* out) {
  DEV_SHARED(int, tile, 13000);
  tile[threadIdx.x] = 1;
  out[threadIdx.x] = tile[threadIdx.x];
}

// ---- progress: the simulator ----

void block_waits_for_the_one_before(unsigned* done) {  // blocks start in any order
  while (blockIdx.x > 0 && !dev::load_acquire(done + blockIdx.x - 1)) dev::pause();
  dev::store_release(done + blockIdx.x, 1u);
}

void lock_never_released(unsigned* lock, int* out) {
  while (atomicCAS(lock, 0u, 1u) != 0u) dev::pause();
  *out += 1;  // dev::store_release(lock, 0u) is missing
}

// ---- values: the tests ----

void shared_memory_taken_for_zero(int* out) {
  DEV_SHARED(int, counter, 1);
  atomicAdd(counter, 1);  // never set to 0
  __syncthreads();
  if (threadIdx.x == 0) out[0] = counter[0];
}

void short_of_yields(cusim::Device& device) { device.config.max_yields = 100000; }

}  // namespace

CUSIM_CASE(publish_relaxed) {
  Buffer<int> item(1, 0), out(1, 0);
  Buffer<unsigned> ready(1, 0u);
  dev::launch(publish_relaxed, 1, 2, 0, &device, item.data(), ready.data(), out.data());
}

CUSIM_CASE(poll_relaxed) {
  Buffer<int> item(1, 0), out(1, 0);
  Buffer<unsigned> ready(1, 0u);
  dev::launch(poll_relaxed, 1, 2, 0, &device, item.data(), ready.data(), out.data());
}

CUSIM_CASE(count_without_atomics) {
  Buffer<int> counter(1, 0);
  dev::launch(count_without_atomics, 2, 32, 0, &device, counter.data());
}

CUSIM_CASE(insert_by_check_then_write) {
  std::vector<unsigned long long> keys(500);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i * i * 7919 + 1;
  Buffer<unsigned long long> in(keys), table(1024, demo::empty_key);
  dev::launch(insert_by_check_then_write, 2, 64, 0, &device, in.data(), 500, table.data(), 1024u);
}

CUSIM_CASE(reverse_without_barrier) {
  Buffer<int> x(64, 1), out(64, 0);
  dev::launch(reverse_without_barrier, 1, 64, 0, &device, x.data(), out.data());
}

CUSIM_CASE(reverse_in_warp_without_syncwarp) {
  Buffer<int> x(32, 1), out(32, 0);
  dev::launch(reverse_in_warp_without_syncwarp, 1, 32, 0, &device, x.data(), out.data());
}

CUSIM_CASE(shuffle_taken_for_a_fence) {
  Buffer<int> x(32, 1), out(32, 0);
  dev::launch(shuffle_taken_for_a_fence, 1, 32, 0, &device, x.data(), out.data());
}

CUSIM_CASE(second_round_overwrites_shared) {
  Buffer<int> x(64, 1), out(64, 0);
  dev::launch(second_round_overwrites_shared, 1, 64, 0, &device, x.data(), out.data());
}

CUSIM_CASE(block_reads_what_another_block_writes) {
  Buffer<int> values(9, 0);
  dev::launch(block_reads_what_another_block_writes, 8, 32, 0, &device, values.data());
}

CUSIM_CASE(scale_without_bounds_check) {
  Buffer<float> x(100, 1.0f);
  dev::launch(scale_without_bounds_check, 2, 64, 0, &device, x.data());
}

CUSIM_CASE(shared_array_one_too_short) {
  Buffer<int> out(64, 0);
  dev::launch(shared_array_one_too_short, 1, 64, 0, &device, out.data());
}

CUSIM_CASE(dynamic_shared_one_too_short) {
  Buffer<int> out(64, 0);
  dev::launch(dynamic_shared_one_too_short, 1, 64, 63 * sizeof(int), &device, out.data());
}

CUSIM_CASE(index_beyond_31_bits) {
  Buffer<int> out(1, 0);
  dev::launch(index_beyond_31_bits, 1, 32, 0, &device, 100000000, out.data());
}

CUSIM_CASE(wide_load_from_an_odd_row) {
  Buffer<float> x(100, 1.0f), out(32, 0.0f);
  dev::launch(wide_load_from_an_odd_row, 1, 32, 0, &device, x.data(), out.data());
}

CUSIM_CASE(host_reads_a_device_pointer) {
  Buffer<int> x(4, 1);
  CUSIM_REQUIRE(x.data()[2] == 1);  // works here, crashes on a device
}

CUSIM_CASE(barrier_in_a_divergent_branch) {
  Buffer<int> out(64, 0);
  dev::launch(barrier_in_a_divergent_branch, 1, 64, 0, &device, out.data());
}

CUSIM_CASE(barrier_after_some_have_left) {
  Buffer<int> out(64, 0);
  dev::launch(barrier_after_some_have_left, 1, 64, 0, &device, out.data());
}

CUSIM_CASE(lane_outside_its_own_mask) {
  Buffer<int> out(32, 0);
  dev::launch(lane_outside_its_own_mask, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(mask_names_lanes_that_left) {
  Buffer<int> out(32, 0);
  dev::launch(mask_names_lanes_that_left, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(lanes_disagree_on_the_operation) {
  Buffer<int> out(32, 0);
  dev::launch(lanes_disagree_on_the_operation, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(shuffle_from_a_lane_outside_the_mask) {
  Buffer<int> out(32, 0);
  dev::launch(shuffle_from_a_lane_outside_the_mask, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(warp_operation_in_a_short_warp) {
  Buffer<int> out(40, 0);
  dev::launch(warp_operation_in_a_short_warp, 1, 40, 0, &device, out.data());
}

CUSIM_CASE(promise_broken) {
  Buffer<int> out(32, 0);
  dev::launch(promise_broken, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(shared_array_too_large) {
  Buffer<int> out(32, 0);
  dev::launch(shared_array_too_large, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(too_many_threads_in_a_block) {
  Buffer<int> out(2048, 0);
  dev::launch(barrier_after_some_have_left, 1, 2048, 0, &device, out.data());
}

CUSIM_CASE(grid_of_no_blocks) {
  Buffer<int> out(64, 0);
  dev::launch(barrier_after_some_have_left, 0, 64, 0, &device, out.data());
}

CUSIM_CASE(grid_beyond_16_bits_in_y) {
  Buffer<int> out(64, 0);
  dev::launch(barrier_after_some_have_left, {1, 70000}, 64, 0, &device, out.data());
}

CUSIM_CASE(too_much_dynamic_shared_memory) {
  Buffer<int> out(64, 0);
  dev::launch(dynamic_shared_one_too_short, 1, 64, 120000, &device, out.data());
}

CUSIM_CASE(grid_barrier_with_more_blocks_than_fit) {
  short_of_yields(device);
  Buffer<int> values(16, 1);
  Buffer<unsigned> arrived(1, 0u);
  dev::launch(demo::ring_sum, 8, 64, 0, &device, values.data(), arrived.data(), 2);
}

CUSIM_CASE(block_waits_for_the_one_before) {
  short_of_yields(device);
  Buffer<unsigned> done(64, 0u);
  dev::launch(block_waits_for_the_one_before, 64, 1, 0, &device, done.data());
}

CUSIM_CASE(lock_never_released) {
  short_of_yields(device);
  Buffer<unsigned> lock(1, 0u);
  Buffer<int> out(1, 0);
  dev::launch(lock_never_released, 1, 32, 0, &device, lock.data(), out.data());
}

CUSIM_CASE(shared_memory_taken_for_zero) {
  Buffer<int> out(1, 0);
  dev::launch(shared_memory_taken_for_zero, 1, 64, 0, &device, out.data());
  CUSIM_REQUIRE(out.host()[0] == 64);
}

CUSIM_MAIN
