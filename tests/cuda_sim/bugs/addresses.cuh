// Addresses and arithmetic: what AddressSanitizer and UndefinedBehaviorSanitizer must find.
#pragma once

#include "bugs/seeding.cuh"

namespace seeded {

void scale_without_bounds_check(float* x) { x[dev::thread_index()] *= 2.0f; }

CUSIM_CASE(scale_without_bounds_check) {
  Buffer<float> x(100, 1.0f);
  run(scale_without_bounds_check, 2, 64, 0, &device, x.data());
}

void shared_array_one_too_short(int* out) {
  DEV_SHARED(int, tile, 63);
  tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

CUSIM_CASE(shared_array_one_too_short) {
  Buffer<int> out(64, 0);
  run(shared_array_one_too_short, 1, 64, 0, &device, out.data());
}

void dynamic_shared_one_too_short(int* out) {
  DEV_DYNAMIC_SHARED(int, tile);
  tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

CUSIM_CASE(dynamic_shared_one_too_short) {
  Buffer<int> out(64, 0);
  run(dynamic_shared_one_too_short, 1, 64, 63 * sizeof(int), &device, out.data());
}

void index_beyond_31_bits(int rows, int* out) {
  const int offset = rows * 27;  // should be 64 bits
  if (threadIdx.x == 0) out[0] = offset < 0;
}

CUSIM_CASE(index_beyond_31_bits) {
  Buffer<int> out(1, 0);
  run(index_beyond_31_bits, 1, 32, 0, &device, 100000000, out.data());
}

struct alignas(16) Four {
  float v[4];
};

void wide_load_from_an_odd_row(const float* x, float* out) {
  const Four* row = reinterpret_cast<const Four*>(x + 3 * threadIdx.x);
  out[threadIdx.x] = row->v[0];
}

CUSIM_CASE(wide_load_from_an_odd_row) {
  Buffer<float> x(100, 1.0f), out(32, 0.0f);
  run(wide_load_from_an_odd_row, 1, 32, 0, &device, x.data(), out.data());
}

// Two arrays cut from one allocation: the first is overrun by one.
void overruns_the_first_array(int* first, int n, int* second) {
  first[n] = 7;
  second[0] = 1;
}

CUSIM_CASE(array_of_a_workspace_overrun_by_one) {
  Buffer<char> workspace(4096);
  int* const first = reinterpret_cast<int*>(workspace.data());
  dev::cut(first, 60 * sizeof(int), 512 - 60 * sizeof(int));
  run(overruns_the_first_array, 1, 1, 0, &device, first, 60, first + 128);
}

// A byte offset in 32 bits, which wraps; taken modulo 64 it stays in bounds here.
void offset_beyond_32_bits(const float* x, unsigned rows, unsigned columns, float* out) {
  out[threadIdx.x] = x[(rows - 1) * columns % 64u];
}

CUSIM_CASE(byte_offset_beyond_32_bits) {
  Buffer<float> x(64, 1.0f), out(32, 0.0f);
  run(offset_beyond_32_bits, 1, 32, 0, &device, x.data(), 40000000u, 256u, out.data());
}

// Row `row` of a matrix of 64 columns, by a product of 32-bit numbers.
void reads_row(const unsigned char* x, int row, unsigned char* out) {
  out[threadIdx.x] = x[row * 64 + static_cast<int>(threadIdx.x)];  // should be 64 bits
}

CUSIM_CASE(row_offset_beyond_31_bits) {
  const int row = 40000000;
  cusim::Sparse<unsigned char> x(std::size_t{64} * (row + 1));
  Buffer<unsigned char> out(64);
  x[std::size_t{64} * row] = 9;
  run(reads_row, 1, 64, 0, &device, x.data(), row, out.data());
  CUSIM_REQUIRE(out.host()[0] == 9);
}

CUSIM_CASE(host_reads_a_device_pointer) {
  Buffer<int> x(4, 1);
  CUSIM_REQUIRE(x.data()[2] == 1);  // works here, crashes on a device
}

}  // namespace seeded
