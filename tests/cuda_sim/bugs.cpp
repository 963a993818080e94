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

// The last block sums what all have left, but its counter orders nothing.
void last_block_sums(const int* x, int* partial, unsigned* done, int* out) {
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = x[blockIdx.x];
  if (atomicAdd(done, 1u) + 1 < gridDim.x) return;  // should be fetch_add_acq_rel
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += partial[block];
  *out = sum;
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

void two_byte_values_without_barrier(const unsigned short* x, unsigned short* out) {
  DEV_SHARED(unsigned short, tile, 128);
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[threadIdx.x ^ 32];
}

void threads_far_apart(int* x, int* out) {
  if (dev::thread_index() == 0) *x = 1;
  if (dev::thread_index() == 6100) *out = *x;
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

// Two arrays cut from one allocation: the first is overrun by one.
void overruns_the_first_array(int* first, int n, int* second) {
  first[n] = 7;
  second[0] = 1;
}

// A byte offset in 32 bits, which wraps; taken modulo 64 it stays in bounds here.
void offset_beyond_32_bits(const float* x, unsigned rows, unsigned columns, float* out) {
  out[threadIdx.x] = x[(rows - 1) * columns % 64u];
}

// Row `row` of a matrix of 64 columns, by a product of 32-bit numbers.
void reads_row(const unsigned char* x, int row, unsigned char* out) {
  out[threadIdx.x] = x[row * 64 + static_cast<int>(threadIdx.x)];  // should be 64 bits
}

// ---- block and warp operations: the simulator ----

void reads_pointer(const int* p, int* out) { out[threadIdx.x] = p[threadIdx.x]; }

struct Arrays {
  int count;
  const int* from;
};
void reads_struct(Arrays arrays, int* out) { out[threadIdx.x] = arrays.from[threadIdx.x]; }

DEV_KERNEL(64) bound_to_64_threads(int* out) { out[threadIdx.x] = 1; }

template <class T>
DEV_KERNEL(2 * 32)
template_bound_to_64_threads(T* out) {
  out[threadIdx.x] = T(1);
}

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

// What was never written decides nothing while it happens to be negative.
void unwritten_memory(const int* x, int* out) { out[threadIdx.x] = x[threadIdx.x] < 0 ? 0 : 1; }

// A lock-free stack of free items; pop reads the next item before its exchange (the ABA problem).
void pop_and_push(int* head, int* next, int* owners, int* twice) {
  for (int round = 0; round < 20; ++round) {
    int top = atomicAdd(head, 0);
    while (top >= 0) {
      const int after = dev::load_relaxed(next + top);
      dev::pause();
      const int seen = atomicCAS(head, top, after);
      if (seen == top) break;
      top = seen;
    }
    if (top < 0) continue;
    if (atomicAdd(owners + top, 1) != 0) atomicAdd(twice, 1);  // one item, two owners
    dev::pause();
    atomicSub(owners + top, 1);
    for (int old = atomicAdd(head, 0);;) {
      dev::store_relaxed(next + top, old);
      const int seen = atomicCAS(head, old, top);
      if (seen == old) break;
      old = seen;
    }
  }
}

// A sum that relies on lanes in lock-step.
void sum_in_lock_step(const int* x, int* out) {
  DEV_SHARED(int, value, 64);
  value[threadIdx.x] = x[threadIdx.x];
  value[threadIdx.x + 32] = 0;
  __syncwarp();
  for (unsigned step = 16; step > 0; step /= 2) {
    const int other = value[threadIdx.x + step];
    dev::pause();  // where a device may let another lane go first
    value[threadIdx.x] += other;
  }
  if (threadIdx.x == 0) *out = value[0];
}

void float_sum(const float* x, float* out) { atomicAdd(out, x[threadIdx.x]); }

void set_to(int* x, int value) { x[threadIdx.x] = value; }

// A grid-stride loop that forgot to stride: it does the first pass only.
void one_pass_only(const int* x, int n, int* out) {
  if (const std::int64_t i = dev::thread_index(); i < n) out[i] = x[i];
}

// A barrier in a loop whose number of rounds differs between the threads unless n is a multiple of 64.
void barrier_in_a_loop(int n, int* out) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 64) {
    __syncthreads();
    out[i] = 1;
  }
}

// Starts a kernel and waits for it.
template <class... P, class... A>
void run(void (*kernel)(P...), dev::Dim grid, dev::Dim block, std::size_t shared_bytes, dev::Stream stream,
         A&&... arguments) {
  dev::launch(kernel, grid, block, shared_bytes, stream, arguments...);
  stream->wait();
}

void short_of_yields(cusim::Device& device) { device.config.max_yields = 100000; }

}  // namespace

CUSIM_CASE(publish_relaxed) {
  Buffer<int> item(1, 0), out(1, 0);
  Buffer<unsigned> ready(1, 0u);
  run(publish_relaxed, 1, 2, 0, &device, item.data(), ready.data(), out.data());
}

CUSIM_CASE(poll_relaxed) {
  Buffer<int> item(1, 0), out(1, 0);
  Buffer<unsigned> ready(1, 0u);
  run(poll_relaxed, 1, 2, 0, &device, item.data(), ready.data(), out.data());
}

CUSIM_CASE(count_without_atomics) {
  Buffer<int> counter(1, 0);
  run(count_without_atomics, 2, 32, 0, &device, counter.data());
}

CUSIM_CASE(insert_by_check_then_write) {
  std::vector<unsigned long long> keys(500);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i * i * 7919 + 1;
  Buffer<unsigned long long> in(keys), table(1024, demo::empty_key);
  run(insert_by_check_then_write, 2, 64, 0, &device, in.data(), 500, table.data(), 1024u);
}

CUSIM_CASE(reverse_without_barrier) {
  Buffer<int> x(64, 1), out(64, 0);
  run(reverse_without_barrier, 1, 64, 0, &device, x.data(), out.data());
}

CUSIM_CASE(reverse_in_warp_without_syncwarp) {
  Buffer<int> x(32, 1), out(32, 0);
  run(reverse_in_warp_without_syncwarp, 1, 32, 0, &device, x.data(), out.data());
}

CUSIM_CASE(shuffle_taken_for_a_fence) {
  Buffer<int> x(32, 1), out(32, 0);
  run(shuffle_taken_for_a_fence, 1, 32, 0, &device, x.data(), out.data());
}

CUSIM_CASE(second_round_overwrites_shared) {
  Buffer<int> x(64, 1), out(64, 0);
  run(second_round_overwrites_shared, 1, 64, 0, &device, x.data(), out.data());
}

CUSIM_CASE(block_reads_what_another_block_writes) {
  Buffer<int> values(9, 0);
  run(block_reads_what_another_block_writes, 8, 32, 0, &device, values.data());
}

CUSIM_CASE(scale_without_bounds_check) {
  Buffer<float> x(100, 1.0f);
  run(scale_without_bounds_check, 2, 64, 0, &device, x.data());
}

CUSIM_CASE(shared_array_one_too_short) {
  Buffer<int> out(64, 0);
  run(shared_array_one_too_short, 1, 64, 0, &device, out.data());
}

CUSIM_CASE(dynamic_shared_one_too_short) {
  Buffer<int> out(64, 0);
  run(dynamic_shared_one_too_short, 1, 64, 63 * sizeof(int), &device, out.data());
}

CUSIM_CASE(index_beyond_31_bits) {
  Buffer<int> out(1, 0);
  run(index_beyond_31_bits, 1, 32, 0, &device, 100000000, out.data());
}

CUSIM_CASE(wide_load_from_an_odd_row) {
  Buffer<float> x(100, 1.0f), out(32, 0.0f);
  run(wide_load_from_an_odd_row, 1, 32, 0, &device, x.data(), out.data());
}

CUSIM_CASE(host_reads_a_device_pointer) {
  Buffer<int> x(4, 1);
  CUSIM_REQUIRE(x.data()[2] == 1);  // works here, crashes on a device
}

CUSIM_CASE(barrier_in_a_divergent_branch) {
  Buffer<int> out(64, 0);
  run(barrier_in_a_divergent_branch, 1, 64, 0, &device, out.data());
}

CUSIM_CASE(barrier_after_some_have_left) {
  Buffer<int> out(64, 0);
  run(barrier_after_some_have_left, 1, 64, 0, &device, out.data());
}

CUSIM_CASE(lane_outside_its_own_mask) {
  Buffer<int> out(32, 0);
  run(lane_outside_its_own_mask, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(mask_names_lanes_that_left) {
  Buffer<int> out(32, 0);
  run(mask_names_lanes_that_left, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(lanes_disagree_on_the_operation) {
  Buffer<int> out(32, 0);
  run(lanes_disagree_on_the_operation, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(shuffle_from_a_lane_outside_the_mask) {
  Buffer<int> out(32, 0);
  run(shuffle_from_a_lane_outside_the_mask, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(warp_operation_in_a_short_warp) {
  Buffer<int> out(40, 0);
  run(warp_operation_in_a_short_warp, 1, 40, 0, &device, out.data());
}

CUSIM_CASE(promise_broken) {
  Buffer<int> out(32, 0);
  run(promise_broken, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(shared_array_too_large) {
  Buffer<int> out(32, 0);
  run(shared_array_too_large, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(too_many_threads_in_a_block) {
  Buffer<int> out(2048, 0);
  run(barrier_after_some_have_left, 1, 2048, 0, &device, out.data());
}

CUSIM_CASE(grid_of_no_blocks) {
  Buffer<int> out(64, 0);
  run(barrier_after_some_have_left, 0, 64, 0, &device, out.data());
}

CUSIM_CASE(grid_beyond_16_bits_in_y) {
  Buffer<int> out(64, 0);
  run(barrier_after_some_have_left, {1, 70000}, 64, 0, &device, out.data());
}

CUSIM_CASE(too_much_dynamic_shared_memory) {
  Buffer<int> out(64, 0);
  run(dynamic_shared_one_too_short, 1, 64, 120000, &device, out.data());
}

CUSIM_CASE(grid_barrier_with_more_blocks_than_fit) {
  short_of_yields(device);
  Buffer<int> values(16, 1);
  Buffer<unsigned> arrived(1, 0u);
  run(demo::ring_sum, 8, 64, 0, &device, values.data(), arrived.data(), 2);
}

CUSIM_CASE(block_waits_for_the_one_before) {
  short_of_yields(device);
  Buffer<unsigned> done(64, 0u);
  run(block_waits_for_the_one_before, 64, 1, 0, &device, done.data());
}

CUSIM_CASE(lock_never_released) {
  short_of_yields(device);
  Buffer<unsigned> lock(1, 0u);
  Buffer<int> out(1, 0);
  run(lock_never_released, 1, 32, 0, &device, lock.data(), out.data());
}

CUSIM_CASE(shared_memory_taken_for_zero) {
  Buffer<int> out(1, 0);
  run(shared_memory_taken_for_zero, 1, 64, 0, &device, out.data());
  CUSIM_REQUIRE(out.host()[0] == 64);
}

CUSIM_CASE(last_block_sums_by_a_relaxed_counter) {
  Buffer<int> x(6, 1), partial(6), out(1, 0);
  Buffer<unsigned> done(1, 0u);
  run(last_block_sums, 6, 32, 0, &device, x.data(), partial.data(), done.data(), out.data());
}

CUSIM_CASE(leader_publishes_after_a_vote) {
  Buffer<int> data(32, 0), out(32, 0);
  Buffer<unsigned> ready(1, 0u);
  run(leader_publishes_after_a_vote, 2, 32, 0, &device, data.data(), ready.data(), out.data());
}

CUSIM_CASE(two_byte_values_without_barrier) {
  Buffer<unsigned short> x(128), out(128);
  run(two_byte_values_without_barrier, 1, 128, 0, &device, x.data(), out.data());
}

CUSIM_CASE(race_of_threads_far_apart) {
  Buffer<int> x(1, 0), out(1, 0);
  run(threads_far_apart, 200, 32, 0, &device, x.data(), out.data());
}

CUSIM_CASE(scan_of_tiles_without_last_barrier) {
  Buffer<int> values(192, 1);
  run(scan_of_tiles_without_last_barrier, 1, 64, 0, &device, values.data(), 192);
}

CUSIM_CASE(array_of_a_workspace_overrun_by_one) {
  Buffer<char> workspace(4096);
  int* const first = reinterpret_cast<int*>(workspace.data());
  dev::cut(first, 60 * sizeof(int), 512 - 60 * sizeof(int));
  run(overruns_the_first_array, 1, 1, 0, &device, first, 60, first + 128);
}

CUSIM_CASE(byte_offset_beyond_32_bits) {
  Buffer<float> x(64, 1.0f), out(32, 0.0f);
  run(offset_beyond_32_bits, 1, 32, 0, &device, x.data(), 40000000u, 256u, out.data());
}

CUSIM_CASE(row_offset_beyond_31_bits) {
  const int row = 40000000;
  cusim::Sparse<unsigned char> x(std::size_t{64} * (row + 1));
  Buffer<unsigned char> out(64);
  x[std::size_t{64} * row] = 9;
  run(reads_row, 1, 64, 0, &device, x.data(), row, out.data());
  CUSIM_REQUIRE(out.host()[0] == 9);
}

CUSIM_CASE(host_pointer_given_to_a_kernel) {
  std::vector<int> host(32, 5);
  Buffer<int> out(32, 0);
  run(reads_pointer, 1, 32, 0, &device, host.data(), out.data());
}

CUSIM_CASE(host_pointer_in_a_struct) {
  int host[32] = {};
  Buffer<int> out(32, 0);
  run(reads_struct, 1, 32, 0, &device, Arrays{32, host}, out.data());
}

CUSIM_CASE(fill_of_host_memory) {
  int host[32];
  dev::fill_bytes(host, 0, sizeof host, &device);
}

CUSIM_CASE(scratch_freed_before_the_kernel_runs) {
  Buffer<int> out(32, 0);
  {
    Buffer<int> x(32, 5);
    dev::launch(reads_pointer, 1, 32, 0, &device, x.data(), out.data());
  }
  CUSIM_REQUIRE(out.host()[0] == 5);
}

CUSIM_CASE(work_that_nobody_waits_for) {
  Buffer<int> out(32, 0);
  dev::launch(set_to, 1, 32, 0, &device, out.data(), 1);
}

CUSIM_CASE(above_the_launch_bound) {
  Buffer<int> out(256, 0);
  run(bound_to_64_threads, 1, 256, 0, &device, out.data());
}

CUSIM_CASE(above_the_launch_bound_of_a_template) {
  Buffer<int> out(256, 0);
  run(template_bound_to_64_threads<int>, 1, 96, 0, &device, out.data());
}

CUSIM_CASE(launch_on_another_stream) {
  Buffer<int> x(32, 0), out(32, 0);
  dev::launch(set_to, 1, 32, 0, &device, x.data(), 5);
  dev::launch(reads_pointer, 1, 32, 0, nullptr, x.data(), out.data());  // should be &device
  CUSIM_REQUIRE(out.host()[0] == 5);
}

CUSIM_CASE(grid_without_stride) {
  const int n = 300;
  Buffer<int> x(n, 1), out(n, 0);
  run(one_pass_only, dev::grid_blocks((n + 63) / 64, 16), 64, 0, &device, x.data(), n, out.data());
  CUSIM_REQUIRE(out.host() == std::vector<int>(n, 1));
}

CUSIM_CASE(unwritten_memory_is_read) {
  Buffer<int> x(32), out(32, 5);
  run(unwritten_memory, 1, 32, 0, &device, x.data(), out.data());
  CUSIM_REQUIRE(out.host()[0] == 0);
}

CUSIM_CASE(free_list_with_aba) {
  Buffer<int> head(1, 0), next(std::vector<int>{1, 2, 3, -1}), owners(4, 0), twice(1, 0);
  run(pop_and_push, 2, 8, 0, &device, head.data(), next.data(), owners.data(), twice.data());
  CUSIM_REQUIRE(twice.host()[0] == 0);
}

CUSIM_CASE(sum_in_lock_step) {
  Buffer<int> x(32, 1), out(1, 0);
  run(sum_in_lock_step, 1, 32, 0, &device, x.data(), out.data());
  CUSIM_REQUIRE(out.host()[0] == 32);
}

CUSIM_CASE(float_atomics_said_to_be_deterministic) {
  std::vector<float> values;
  for (int i = 0; i < 32; ++i) values.push_back(1.0f / static_cast<float>(i * i + 3));
  Buffer<float> x(values), out(1, 0.0f);
  run(float_sum, 1, 32, 0, &device, x.data(), out.data());
  CUSIM_REQUIRE_SAME(out.host());
}

CUSIM_CASE(barrier_count_fits_by_luck) {
  Buffer<int> out(128, 0);
  run(barrier_in_a_loop, 1, 64, 0, &device, 128, out.data());
}

CUSIM_MAIN
