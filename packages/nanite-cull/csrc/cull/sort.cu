// The sort of visible clusters: CUB's radix sort.
#include <cub/device/device_radix_sort.cuh>

#include "cull/device_cull.h"

namespace nanite_cull::cuda {

void sort_keys(DeviceArray<uint64_t>& keys, DeviceArray<uint64_t>& other, DeviceArray<uint8_t>& scratch,
               int bits, dev::Stream stream) {
  cub::DoubleBuffer<uint64_t> both(keys.data(), other.data());
  const auto count = static_cast<int64_t>(keys.size());
  std::size_t bytes = 0;
  dev::check(cub::DeviceRadixSort::SortKeys(nullptr, bytes, both, count, 0, bits, stream), "sort_keys");
  scratch.resize(bytes);
  dev::check(cub::DeviceRadixSort::SortKeys(scratch.data(), bytes, both, count, 0, bits, stream),
             "sort_keys");
  if (both.Current() != keys.data()) std::swap(keys, other);
}

}  // namespace nanite_cull::cuda
