// Values: what only a test of the results finds, and one bug that no run here shows.
#pragma once

#include "bugs/seeding.cuh"

namespace seeded {

void shared_memory_taken_for_zero(int* out) {
  DEV_SHARED(int, counter, 1);
  atomicAdd(counter, 1);  // never set to 0
  __syncthreads();
  if (threadIdx.x == 0) out[0] = counter[0];
}

CUSIM_CASE(shared_memory_taken_for_zero) {
  Buffer<int> out(1, 0);
  run(shared_memory_taken_for_zero, 1, 64, 0, &device, out.data());
  CUSIM_REQUIRE(out.host()[0] == 64);
}

// What was never written decides nothing while it happens to be negative.
void unwritten_memory(const int* x, int* out) { out[threadIdx.x] = x[threadIdx.x] < 0 ? 0 : 1; }

CUSIM_CASE(unwritten_memory_is_read) {
  Buffer<int> x(32), out(32, 5);
  run(unwritten_memory, 1, 32, 0, &device, x.data(), out.data());
  CUSIM_REQUIRE(out.host()[0] == 0);
}

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

CUSIM_CASE(free_list_with_aba) {
  Buffer<int> head(1, 0), next(std::vector<int>{1, 2, 3, -1}), owners(4, 0), twice(1, 0);
  run(pop_and_push, 2, 8, 0, &device, head.data(), next.data(), owners.data(), twice.data());
  CUSIM_REQUIRE(twice.host()[0] == 0);
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

CUSIM_CASE(sum_in_lock_step) {
  Buffer<int> x(32, 1), out(1, 0);
  run(sum_in_lock_step, 1, 32, 0, &device, x.data(), out.data());
  CUSIM_REQUIRE(out.host()[0] == 32);
}

void float_sum(const float* x, float* out) { atomicAdd(out, x[threadIdx.x]); }

CUSIM_CASE(float_atomics_said_to_be_deterministic) {
  std::vector<float> values;
  for (int i = 0; i < 32; ++i) values.push_back(1.0f / static_cast<float>(i * i + 3));
  Buffer<float> x(values), out(1, 0.0f);
  run(float_sum, 1, 32, 0, &device, x.data(), out.data());
  CUSIM_REQUIRE_SAME(out.host());
}

// A grid-stride loop that forgot to stride: it does the first pass only.
void one_pass_only(const int* x, int n, int* out) {
  if (const std::int64_t i = dev::thread_index(); i < n) out[i] = x[i];
}

CUSIM_CASE(grid_without_stride) {
  const int n = 300;
  Buffer<int> x(n, 1), out(n, 0);
  run(one_pass_only, dev::grid_blocks((n + 63) / 64, 16), 64, 0, &device, x.data(), n, out.data());
  CUSIM_REQUIRE(out.host() == std::vector<int>(n, 1));
}

// A barrier in a loop whose number of rounds differs between the threads unless n is a multiple of 64.
void barrier_in_a_loop(int n, int* out) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 64) {
    __syncthreads();
    out[i] = 1;
  }
}

CUSIM_CASE(barrier_count_fits_by_luck) {
  Buffer<int> out(128, 0);
  run(barrier_in_a_loop, 1, 64, 0, &device, 128, out.data());
}

// A stream of its own copies `five` while a kernel waits for it, or not, and its memory changes.
inline void copy_beside(cusim::Device& device, bool held_back, bool waited_for) {
  Buffer<int> x(32, 0), out(32, 0);
  std::vector<int> five(32, 5);
  dev::SideStream side;
  dev::Event copied;
  dev::upload_later(x.data(), five.data(), 32 * sizeof(int), side.get());
  copied.record(side.get());
  if (held_back) copied.hold_back(&device);
  if (waited_for) copied.wait();
  five.assign(32, 6);
  dev::launch(reads_pointer, 1, 32, 0, &device, x.data(), out.data());
  device.wait();
  CUSIM_REQUIRE(out.host()[0] == 5);
}

CUSIM_CASE(copy_that_no_kernel_waits_for) { copy_beside(device, false, false); }
CUSIM_CASE(memory_that_changes_before_its_copy) { copy_beside(device, true, false); }

CUSIM_CASE(launch_on_another_stream) {
  Buffer<int> x(32, 0), out(32, 0);
  dev::launch(set_to, 1, 32, 0, &device, x.data(), 5);
  dev::launch(reads_pointer, 1, 32, 0, nullptr, x.data(), out.data());  // should be &device
  CUSIM_REQUIRE(out.host()[0] == 5);
}

}  // namespace seeded
