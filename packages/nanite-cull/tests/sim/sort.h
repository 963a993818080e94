// CUB's radix sort on a device; in its place one simulated thread.
#pragma once

#if defined(__CUDACC__)
#include "cull/sort.cu"
#else
#include <algorithm>

#include "cull/device_cull.h"

namespace nanite_cull::cuda {

DEV_KERNEL(1) sort_in_one_thread(uint64_t* keys, int64_t count, int bits) {
#if defined(SEEDED_UNSORTED)
  uint64_t* const end = std::partition(keys, keys + count, [](uint64_t key) { return key != no_key; });
  std::partition(keys, end, [&](uint64_t key) { return (key >> (bits - 2) & 1) == 0; });
#else
  (void)bits;
  std::sort(keys, keys + count);
#endif
}

void sort_keys(DeviceArray<uint64_t>& keys, DeviceArray<uint64_t>&, DeviceArray<uint8_t>&, int bits,
               dev::Stream stream) {
  dev::launch(sort_in_one_thread, 1, 1, 0, stream, keys.data(), static_cast<int64_t>(keys.size()), bits);
}

}  // namespace nanite_cull::cuda
#endif
