// The weight gradient of a stride-1 convolution over channels-last frames, over all frames at once.
#pragma once

#include <cstdint>

#include "native/dispatch.h"

namespace convlstm {

// d_weight[ky][kx][c][k] = sum over frames, y, x of x[y + ky - top][x + kx - left][c] * d_out[y][x][k],
// with x zero outside its frame.
struct WeightGradient {
  int64_t frames, height, width, channels;  // of x (frames, height, width, channels)
  int64_t out_height, out_width, out_channels;
  int64_t kernel_height, kernel_width;
  int64_t top, left;  // zeros before the first row and column
  const float *x, *d_out;
  float* d_weight;  // (kernel_height, kernel_width, channels, out_channels), overwritten
};

NATIVE_DECLARE_ISA(void weight_gradient(const WeightGradient&, int threads))

}  // namespace convlstm
