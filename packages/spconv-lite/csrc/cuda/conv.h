// Sparse convolution on CUDA: forward, and the gradients for the input and the weight, over a neighbour
// table.
//
// All pointers are device memory; work is queued on `stream` and nothing waits. Weights are (groups * out, K,
// in) with `in` and `out` the channels of one group, as spconv's KRSC with the kernel axes joined. Sums are
// float32 (float64 for float64). Results are the same in every run. Throws native::ValueError for sizes,
// std::runtime_error for CUDA's errors.
//
// Compiled and simulated (tensor cores by an emulation of wmma), never run.
#pragma once

#include <cuda/rulebook.h>

namespace spconv_lite::cuda {

enum class Arithmetic { float32, float64, tf32, float16, bfloat16 };  // tf32: float32 on tensor cores

struct Channels {
  int64_t in, out;  // of one group
  int64_t groups = 1;
};

// y (rows, groups * out) = x[table] @ weight + bias, then relu if asked. bias may be null. `table` holds
// sources.
void convolve(Arithmetic arithmetic, const NeighbourTable& table, const Channels& channels, const void* x,
              const void* weight, const void* bias, bool relu, void* y, void* stream);

// x_gradient (rows, groups * in) from gradient (.., groups * out). `table` holds targets; or, with mirror,
// the sources of a submanifold convolution with odd kernel.
void convolve_back(Arithmetic arithmetic, const NeighbourTable& table, bool mirror, const Channels& channels,
                   const void* gradient, const void* weight, void* x_gradient, void* stream);

int64_t correlate_workspace_bytes(Arithmetic arithmetic, int64_t rows, int64_t volume,
                                  const Channels& channels);

// weight_gradient (groups * out, K, in) from x and gradient (rows, groups * out). `table` holds sources.
void correlate(Arithmetic arithmetic, const NeighbourTable& table, const Channels& channels, const void* x,
               const void* gradient, void* weight_gradient, void* workspace, void* stream);

}  // namespace spconv_lite::cuda
