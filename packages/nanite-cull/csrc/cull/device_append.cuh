// Appending to lists from full warps: one atomic a warp and list. A list's counter says what was offered;
// what lies beyond its capacity is not written, and whoever reads takes the lesser of the two.
#pragma once

#include <native/device.h>

#include "core/hd.h"

namespace nanite_cull::cuda {

using Count = unsigned long long;

// Appends the value of every lane that takes part; all 32 lanes call. False where there was no room.
template <class T>
DEV_FN bool append(bool take, T value, T* list, uint32_t capacity, Count* offered) {
  const unsigned takers = __ballot_sync(dev::all_lanes, take);
  if (takers == 0) return true;
  const int lane = dev::lane(), first = dev::lowest_bit(takers);
  Count base = 0;
  if (lane == first) base = atomicAdd(offered, static_cast<Count>(dev::popcount(takers)));
  base = __shfl_sync(dev::all_lanes, base, first);
  if (!take) return true;
  const Count at = base + static_cast<Count>(dev::popcount(takers & ((1u << lane) - 1)));
  if (at >= capacity) return false;
  list[at] = value;
  return true;
}

// Adds up what the lanes of a warp counted; all 32 call.
DEV_FN void add_up(Count value, Count* total) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(dev::all_lanes, value, step);
  if (dev::lane() == 0 && value > 0) atomicAdd(total, value);
}

HD inline uint32_t filled(const Count& offered, uint32_t capacity) {
  return offered < capacity ? static_cast<uint32_t>(offered) : capacity;
}

// Loops of warps, the same for all lanes of one: `per_warp` items at a time, until `count`.
//   for (int64_t first = first_of_warp(n); first < count; first += stride_of_warps(n))
DEV_FN int64_t first_of_warp(int per_warp) { return dev::thread_index() / 32 * per_warp; }
DEV_FN int64_t stride_of_warps(int per_warp) { return dev::thread_count() / 32 * per_warp; }

}  // namespace nanite_cull::cuda
