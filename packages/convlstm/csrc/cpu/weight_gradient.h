// The weight gradient of a stride-1 convolution over channels-last frames, over all frames at once.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "native/dispatch.h"

namespace convlstm {

// d_weight[k][c][ky][kx] += sum over frames, y, x of in[y + ky - top][x + kx - left][c] * d_out[y][x][k],
// with in zero outside its frame; d_bias[k] += the sum of d_out. Two inputs of one size act as one with their
// channels side by side, each with its own d_weight. Of the second the first frames lie by themselves: a
// state before each step is the first state, then those after all steps but the last.
struct WeightGradient {
  int64_t frames, height, width;
  int64_t channels, channels2;  // of the inputs; one of them may have none
  int64_t out_height, out_width, out_channels;
  int64_t kernel_height, kernel_width;
  int64_t top, left;         // zeros before the first row and column
  Tile tile;                 // by minimal filtering only where out and in have one size
  const float* x;            // (frames, height, width, channels)
  int64_t first_frames;      // of x2: so many frames lie in `first2`, the others from x2 on
  const float *first2, *x2;  // (.., height, width, channels2)
  const float* d_out;        // (frames, out_height, out_width, out_channels)
  float* d_weight;           // (out_channels, channels, kernel_height, kernel_width)
  float* d_weight2;          // (out_channels, channels2, kernel_height, kernel_width)
  float* d_bias;             // (out_channels) or null

  int64_t every_channel() const { return channels + channels2; }
};

NATIVE_DECLARE_ISA(void weight_gradient(const WeightGradient&, int threads))
NATIVE_DECLARE_ISA(void weight_gradient_tiles(const WeightGradient&, int threads))  // in tiles

}  // namespace convlstm
