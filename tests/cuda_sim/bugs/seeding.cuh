// What the seeded bugs share.
#pragma once

#include "cusim_test.h"
#include "kernels.cuh"

namespace seeded {

using cusim::Buffer;

// Starts a kernel and waits for it.
template <class... P, class... A>
void run(void (*kernel)(P...), dev::Dim grid, dev::Dim block, std::size_t shared_bytes, dev::Stream stream,
         A&&... arguments) {
  dev::launch(kernel, grid, block, shared_bytes, stream, arguments...);
  stream->wait();
}

// Kernels without a mistake, for cases whose mistake is in the launch.
inline void reads_pointer(const int* p, int* out) { out[threadIdx.x] = p[threadIdx.x]; }

inline void set_to(int* x, int value) { x[threadIdx.x] = value; }

inline void short_of_yields(cusim::Device& device) { device.config.max_yields = 100000; }

}  // namespace seeded
