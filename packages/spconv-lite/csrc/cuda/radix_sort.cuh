// Exclusive prefix sums and a stable radix sort, least digit first, 8 bits a pass.
//
// One pass over tiles of 2048 keys: histogram of each tile; prefix sums over (digit, tile), which gives every
// tile its first place for each digit; scatter. Inside a tile the rank of a key is counted by warps in order:
// lanes with equal digits find one another with a warp match (Merrill, Grimshaw 2011; Adinets, Merrill 2022).
// The result does not depend on the order of threads.
#pragma once

#include <native/device.h>

namespace spconv_lite::cuda {

inline constexpr int sort_threads = 256;
inline constexpr int sort_warps = sort_threads / 32;
inline constexpr int keys_per_thread = 8;
inline constexpr int tile_keys = sort_threads * keys_per_thread;
inline constexpr int digit_bits = 8;
inline constexpr int digits = 1 << digit_bits;
static_assert(digits == sort_threads, "one thread a digit");

// ---- prefix sums ----

DEV_FN int32_t warp_inclusive_sum(int32_t value) {
  for (unsigned step = 1; step < 32; step *= 2) {
    const int32_t lower = __shfl_up_sync(dev::all_lanes, value, step);
    if (dev::lane() >= static_cast<int>(step)) value += lower;
  }
  return value;
}

// Exclusive sum over the threads of a block of sort_threads; *total is the sum of all. The block must pass a
// barrier before it calls this again.
DEV_FN int32_t block_exclusive_sum(int32_t value, int32_t* total) {
  DEV_SHARED(int32_t, warp_sums, sort_warps);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int32_t inclusive = warp_inclusive_sum(value);
  if (dev::lane() == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  int32_t before = 0, sum = 0;
  for (int w = 0; w < sort_warps; ++w) {
    before += w < warp ? warp_sums[w] : 0;
    sum += warp_sums[w];
  }
  *total = sum;
  return before + inclusive - value;
}

// sums[tile] = the sum of values of one tile; a block a tile.
DEV_KERNEL(sort_threads) tile_sums(const int32_t* values, int64_t n, int32_t* sums) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile_keys;
  int32_t mine = 0, total;
  for (int item = 0; item < keys_per_thread; ++item) {
    const int64_t i = first + item * sort_threads + threadIdx.x;
    if (i < n) mine += values[i];
  }
  block_exclusive_sum(mine, &total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// values[i] = start[tile] + the sum of the values before i in its tile; start null counts as 0.
DEV_FN void scan_tile(int32_t* values, int64_t first, int64_t n, int32_t start, int32_t* total) {
  int32_t item[keys_per_thread], mine = 0;
  const int64_t base = first + static_cast<int64_t>(threadIdx.x) * keys_per_thread;
  DEV_UNROLL
  for (int j = 0; j < keys_per_thread; ++j) {
    item[j] = base + j < n ? values[base + j] : 0;
    mine += item[j];
  }
  int32_t before = start + block_exclusive_sum(mine, total);
  DEV_UNROLL
  for (int j = 0; j < keys_per_thread; ++j) {
    if (base + j < n) values[base + j] = before;
    before += item[j];
  }
}

// Exclusive sums over `n` values in place, by one block that walks over the tiles.
DEV_KERNEL(sort_threads) scan_in_one_block(int32_t* values, int64_t n) {
  int32_t start = 0;
  for (int64_t first = 0; first < n; first += tile_keys) {
    int32_t total;
    scan_tile(values, first, n, start, &total);
    start += total;
    __syncthreads();
  }
}

// Exclusive sums in place, given the exclusive sums over tiles; a block a tile.
DEV_KERNEL(sort_threads) scan_tiles(int32_t* values, int64_t n, const int32_t* starts) {
  int32_t total;
  scan_tile(values, static_cast<int64_t>(blockIdx.x) * tile_keys, n, starts[blockIdx.x], &total);
}

// ---- sort ----

DEV_FN int digit_of(unsigned long long key, int shift) {
  return static_cast<int>(key >> shift & static_cast<unsigned long long>(digits - 1));
}

// counts[digit * tiles + tile] = how many keys of the tile have the digit; a block a tile.
DEV_KERNEL(sort_threads)
count_digits(const unsigned long long* keys, int64_t n, int shift, int32_t* counts) {
  DEV_SHARED(int32_t, count, digits);
  count[threadIdx.x] = 0;
  __syncthreads();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile_keys;
  for (int item = 0; item < keys_per_thread; ++item) {
    const int64_t i = first + item * sort_threads + threadIdx.x;
    if (i < n) atomicAdd(count + digit_of(keys[i], shift), 1);
  }
  __syncthreads();
  counts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

// Moves keys, and values if there are any, to their places of this pass; a block a tile. `starts` are the
// exclusive sums over the counts.
DEV_KERNEL(sort_threads)
scatter_by_digit(const unsigned long long* keys, const int32_t* values, int64_t n, int shift,
                 const int32_t* starts, unsigned long long* sorted_keys, int32_t* sorted_values) {
  DEV_SHARED(int32_t, place, sort_warps* digits);  // [warp][digit]: first counts, then first places
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = dev::lane();
  for (int w = 0; w < sort_warps; ++w) place[w * digits + static_cast<int>(threadIdx.x)] = 0;
  __syncthreads();
  // A warp takes 256 neighbouring keys, 32 at a time: so ranks follow the order of the keys.
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile_keys + warp * (tile_keys / sort_warps) + lane;
  unsigned long long key[keys_per_thread];
  int rank[keys_per_thread];
  DEV_UNROLL
  for (int j = 0; j < keys_per_thread; ++j) {
    const int64_t i = first + j * 32;
    key[j] = i < n ? keys[i] : 0;
    const int digit = i < n ? digit_of(key[j], shift) : digits;  // no digit: matches its like only
    const unsigned peers = __match_any_sync(dev::all_lanes, digit);
    int before = 0;
    if (i < n) before = place[warp * digits + digit];
    __syncwarp();
    rank[j] = before + dev::popcount(peers & ((1u << lane) - 1u));
    if (i < n && lane == dev::lowest_bit(peers)) place[warp * digits + digit] = before + dev::popcount(peers);
    __syncwarp();
  }
  __syncthreads();
  int32_t start = starts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x];
  for (int w = 0; w < sort_warps; ++w) {
    int32_t& at = place[w * digits + static_cast<int>(threadIdx.x)];
    const int32_t count = at;
    at = start;
    start += count;
  }
  __syncthreads();
  DEV_UNROLL
  for (int j = 0; j < keys_per_thread; ++j) {
    const int64_t i = first + j * 32;
    if (i >= n) continue;
    const int64_t to = place[warp * digits + digit_of(key[j], shift)] + rank[j];
    sorted_keys[to] = key[j];
    if (values) sorted_values[to] = values[i];
  }
}

// ---- host ----

inline int64_t tiles_of(int64_t n) { return (n + tile_keys - 1) / tile_keys; }

// int32 of scratch memory that exclusive_scan needs beside the values.
inline int64_t scan_scratch(int64_t n) { return tiles_of(n); }

// Exclusive sums over n >= 0 values in place; the sum of all must fit 31 bits.
inline void exclusive_scan(int32_t* values, int64_t n, int32_t* scratch, dev::Stream stream) {
  if (n == 0) return;
  const int64_t tiles = tiles_of(n);
  if (tiles > 1) dev::launch(tile_sums, tiles, sort_threads, 0, stream, values, n, scratch);
  if (tiles > 1) dev::launch(scan_in_one_block, 1, sort_threads, 0, stream, scratch, tiles);
  if (tiles > 1) dev::launch(scan_tiles, tiles, sort_threads, 0, stream, values, n, scratch);
  if (tiles == 1) dev::launch(scan_in_one_block, 1, sort_threads, 0, stream, values, n);
}

// int32 of scratch memory that radix_sort needs.
inline int64_t sort_scratch(int64_t n) {
  const int64_t counts = digits * tiles_of(n);
  return counts + scan_scratch(counts);
}

// Sorts n keys below 2^bits, ascending and stable, with their values unless `values` is null. The pairs of
// arrays are used in turn; returns the index (0 or 1) of the ones that hold the result.
inline int radix_sort(unsigned long long* const keys[2], int32_t* const values[2], int64_t n, int bits,
                      int32_t* scratch, dev::Stream stream) {
  int from = 0;
  if (n == 0) return from;
  const int64_t tiles = tiles_of(n), counts = digits * tiles;
  for (int shift = 0; shift < bits; shift += digit_bits, from = 1 - from) {
    dev::launch(count_digits, tiles, sort_threads, 0, stream, keys[from], n, shift, scratch);
    exclusive_scan(scratch, counts, scratch + counts, stream);
    dev::launch(scatter_by_digit, tiles, sort_threads, 0, stream, keys[from], values ? values[from] : nullptr,
                n, shift, scratch, keys[1 - from], values ? values[1 - from] : nullptr);
  }
  return from;
}

}  // namespace spconv_lite::cuda
