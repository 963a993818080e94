// Prefix sums and radix sort in the simulator, beside the standard library.
#include <cuda/radix_sort.cuh>

#include <algorithm>
#include <numeric>
#include <random>

#include "cusim_test.h"

namespace gpu = spconv_lite::cuda;
using cusim::Buffer;

namespace {

void compare_sort(cusim::Device& device, int64_t n, int bits, bool with_values) {
  std::mt19937_64 random(device.config.seed + static_cast<uint64_t>(n));
  std::vector<unsigned long long> keys(static_cast<size_t>(n));
  for (auto& key : keys) key = random() >> (64 - bits);
  if (n > 10) std::fill(keys.begin() + n / 2, keys.begin() + n / 2 + n / 8, keys[0]);  // equal keys
  std::vector<int32_t> values(keys.size());
  std::iota(values.begin(), values.end(), 0);
  Buffer<unsigned long long> a(keys), b(keys.size());
  Buffer<int32_t> va(values), vb(values.size()), scratch(gpu::sort_scratch(n));
  unsigned long long* const key_arrays[2] = {a.data(), b.data()};
  int32_t* const value_arrays[2] = {va.data(), vb.data()};
  const int at =
      gpu::radix_sort(key_arrays, with_values ? value_arrays : nullptr, n, bits, scratch.data(), &device);
  std::sort(values.begin(), values.end(),
            [&](int32_t x, int32_t y) { return std::pair(keys[x], x) < std::pair(keys[y], y); });
  std::sort(keys.begin(), keys.end());
  CUSIM_REQUIRE((at ? b : a).host() == keys);
  if (with_values) CUSIM_REQUIRE((at ? vb : va).host() == values);
}

void compare_scan(cusim::Device& device, int64_t n) {
  std::vector<int32_t> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * 7919 % 13);
  Buffer<int32_t> sums(values), scratch(gpu::scan_scratch(n));
  gpu::exclusive_scan(sums.data(), n, scratch.data(), &device);
  std::exclusive_scan(values.begin(), values.end(), values.begin(), 0);
  CUSIM_REQUIRE(sums.host() == values);
}

// The block that scans the sums of tiles walks over tiles itself where a sort has more than 33 M keys.
void compare_scan_in_one_block(cusim::Device& device, int64_t n) {
  std::vector<int32_t> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * 7919 % 13);
  Buffer<int32_t> sums(values);
  dev::launch(gpu::scan_in_one_block, 1, gpu::sort_threads, 0, &device, sums.data(), n);
  std::exclusive_scan(values.begin(), values.end(), values.begin(), 0);
  CUSIM_REQUIRE(sums.host() == values);
}

}  // namespace

CUSIM_CASE(scan_of_some_tiles_in_one_block) { compare_scan_in_one_block(device, 3 * 2048 + 5); }
CUSIM_CASE(scan_of_nothing) { compare_scan(device, 0); }
CUSIM_CASE(scan_of_one) { compare_scan(device, 1); }
CUSIM_CASE(scan_of_a_whole_tile) { compare_scan(device, 2048); }
CUSIM_CASE(scan_of_some_tiles) { compare_scan(device, 7001); }
CUSIM_CASE(sort_of_nothing) { compare_sort(device, 0, 20, true); }
CUSIM_CASE(sort_of_one) { compare_sort(device, 1, 20, true); }
CUSIM_CASE(sort_of_keys_in_one_tile) { compare_sort(device, 2047, 13, false); }
CUSIM_CASE(sort_of_pairs_in_some_tiles) { compare_sort(device, 5000, 27, true); }
CUSIM_CASE(sort_of_63_bit_keys) { compare_sort(device, 2500, 63, false); }
CUSIM_CASE(sort_of_one_bit_keeps_the_order_of_equals) { compare_sort(device, 3000, 1, true); }

CUSIM_MAIN
