// Launches, block and warp operations, progress: what the simulator itself must find.
#pragma once

#include "bugs/seeding.cuh"

namespace seeded {

// ---- block and warp operations ----

CUSIM_CASE(host_pointer_given_to_a_kernel) {
  std::vector<int> host(32, 5);
  Buffer<int> out(32, 0);
  run(reads_pointer, 1, 32, 0, &device, host.data(), out.data());
}

CUSIM_CASE(scratch_freed_before_the_kernel_runs) {
  Buffer<int> out(32, 0);
  {
    Buffer<int> x(32, 5);
    dev::launch(reads_pointer, 1, 32, 0, &device, x.data(), out.data());
  }
  CUSIM_REQUIRE(out.host()[0] == 5);
}

struct Arrays {
  int count;
  const int* from;
};
void reads_struct(Arrays arrays, int* out) { out[threadIdx.x] = arrays.from[threadIdx.x]; }

CUSIM_CASE(host_pointer_in_a_struct) {
  int host[32] = {};
  Buffer<int> out(32, 0);
  run(reads_struct, 1, 32, 0, &device, Arrays{32, host}, out.data());
}

DEV_KERNEL(64) bound_to_64_threads(int* out) { out[threadIdx.x] = 1; }

CUSIM_CASE(above_the_launch_bound) {
  Buffer<int> out(256, 0);
  run(bound_to_64_threads, 1, 256, 0, &device, out.data());
}

template <class T>
DEV_KERNEL(2 * 32)
template_bound_to_64_threads(T* out) {
  out[threadIdx.x] = T(1);
}

CUSIM_CASE(above_the_launch_bound_of_a_template) {
  Buffer<int> out(256, 0);
  run(template_bound_to_64_threads<int>, 1, 96, 0, &device, out.data());
}

void barrier_in_a_divergent_branch(int* out) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

CUSIM_CASE(barrier_in_a_divergent_branch) {
  Buffer<int> out(64, 0);
  run(barrier_in_a_divergent_branch, 1, 64, 0, &device, out.data());
}

void barrier_after_some_have_left(int* out) {
  if (threadIdx.x >= 48) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

CUSIM_CASE(barrier_after_some_have_left) {
  Buffer<int> out(64, 0);
  run(barrier_after_some_have_left, 1, 64, 0, &device, out.data());
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

void lane_outside_its_own_mask(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }

CUSIM_CASE(lane_outside_its_own_mask) {
  Buffer<int> out(32, 0);
  run(lane_outside_its_own_mask, 1, 32, 0, &device, out.data());
}

void mask_names_lanes_that_left(int* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = static_cast<int>(__ballot_sync(dev::all_lanes, 1));
}

CUSIM_CASE(mask_names_lanes_that_left) {
  Buffer<int> out(32, 0);
  run(mask_names_lanes_that_left, 1, 32, 0, &device, out.data());
}

void lanes_disagree_on_the_operation(int* out) {
  if (threadIdx.x < 16)
    out[threadIdx.x] = static_cast<int>(__ballot_sync(dev::all_lanes, 1));
  else
    __syncwarp();
}

CUSIM_CASE(lanes_disagree_on_the_operation) {
  Buffer<int> out(32, 0);
  run(lanes_disagree_on_the_operation, 1, 32, 0, &device, out.data());
}

void shuffle_from_a_lane_outside_the_mask(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0x0000ffffu, 1, 8u);
}

CUSIM_CASE(shuffle_from_a_lane_outside_the_mask) {
  Buffer<int> out(32, 0);
  run(shuffle_from_a_lane_outside_the_mask, 1, 32, 0, &device, out.data());
}

void warp_operation_in_a_short_warp(int* out) {  // launched with 40 threads
  out[threadIdx.x] = __any_sync(dev::all_lanes, 1);
}

CUSIM_CASE(warp_operation_in_a_short_warp) {
  Buffer<int> out(40, 0);
  run(warp_operation_in_a_short_warp, 1, 40, 0, &device, out.data());
}

void promise_broken(int* out) {
  DEV_ASSERT(threadIdx.x < 5);
  out[threadIdx.x] = 1;
}

CUSIM_CASE(promise_broken) {
  Buffer<int> out(32, 0);
  run(promise_broken, 1, 32, 0, &device, out.data());
}

void shared_array_too_large(int* out) {
  DEV_SHARED(int, tile, 13000);
  tile[threadIdx.x] = 1;
  out[threadIdx.x] = tile[threadIdx.x];
}

CUSIM_CASE(shared_array_too_large) {
  Buffer<int> out(32, 0);
  run(shared_array_too_large, 1, 32, 0, &device, out.data());
}

CUSIM_CASE(too_much_dynamic_shared_memory) {
  Buffer<int> out(64, 0);
  run(barrier_after_some_have_left, 1, 64, 120000, &device, out.data());
}

CUSIM_CASE(fill_of_host_memory) {
  int host[32];
  dev::fill_bytes(host, 0, sizeof host, &device);
}

CUSIM_CASE(work_that_nobody_waits_for) {
  Buffer<int> out(32, 0);
  dev::launch(set_to, 1, 32, 0, &device, out.data(), 1);
}

// ---- progress ----

void block_waits_for_the_one_before(unsigned* done) {  // blocks start in any order
  while (blockIdx.x > 0 && !dev::load_acquire(done + blockIdx.x - 1)) dev::pause();
  dev::store_release(done + blockIdx.x, 1u);
}

CUSIM_CASE(block_waits_for_the_one_before) {
  short_of_yields(device);
  Buffer<unsigned> done(64, 0u);
  run(block_waits_for_the_one_before, 64, 1, 0, &device, done.data());
}

void lock_never_released(unsigned* lock, int* out) {
  while (atomicCAS(lock, 0u, 1u) != 0u) dev::pause();
  *out += 1;  // dev::store_release(lock, 0u) is missing
}

CUSIM_CASE(lock_never_released) {
  short_of_yields(device);
  Buffer<unsigned> lock(1, 0u);
  Buffer<int> out(1, 0);
  run(lock_never_released, 1, 32, 0, &device, lock.data(), out.data());
}

CUSIM_CASE(grid_barrier_with_more_blocks_than_fit) {
  short_of_yields(device);
  Buffer<int> values(16, 1);
  Buffer<unsigned> arrived(1, 0u);
  run(demo::ring_sum, 8, 64, 0, &device, values.data(), arrived.data(), 2);
}

}  // namespace seeded
