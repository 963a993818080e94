// Convolution of stride 1 over channels-last frames by Winograd's minimal filtering F(2x2, 3x3). A larger
// kernel is cut into parts of 3x3, the last of them filled up with zeros.
#pragma once

#include <cstdint>

#include "native/dispatch.h"

namespace convlstm {

// out[y][x][k] = sum over both inputs, ky, kx, c of in[y + ky - top][x + kx - left][c] *
// weight[c][ky][kx][k], inputs being zero outside their frames. Two inputs of one size act as one with their
// channels side by side, without a copy, and so do two outputs.
struct Winograd {
  int64_t frames, height, width;
  int64_t channels, channels2;  // of the inputs; the second may have none
  int64_t out_height, out_width;
  int64_t out_channels, out_channels2;  // of the outputs; the second may have none
  int64_t parts_down, parts_across;     // the kernel is (3 parts_down, 3 parts_across)
  int64_t top, left;                    // zeros before the first row and column, less than the kernel
  const float *x, *x2;                  // (frames, height, width, channels), (.., channels2)
  const float* transformed;             // of winograd_weights, for every_channel()
  float *out, *out2;                    // (frames, out_height, out_width, out_channels), (.., out_channels2)

  // Input channels of all parts: parts in reading order, in each x before x2.
  int64_t every_channel() const { return parts_down * parts_across * (channels + channels2); }
};

NATIVE_DECLARE_ISA(void winograd(const Winograd&, int threads))

// Floats of the transformed weights for so many input and output channels.
NATIVE_DECLARE_ISA(int64_t winograd_size(int64_t channels, int64_t out_channels))

// Transforms weights (channels, 3, 3, out_channels).
NATIVE_DECLARE_ISA(void winograd_weights(const float* weights, int64_t channels, int64_t out_channels,
                                         float* transformed))

}  // namespace convlstm
