// A stride-1 convolution over channels-last frames, with outputs of its inputs' size.
#pragma once

#include <cstdint>

#include "cpu/tile.h"
#include "native/dispatch.h"

namespace convlstm {

// Two inputs act as one with their channels side by side; so do two outputs. Turned, it is the transpose of
// the convolution with the same weights: its inputs are that one's outputs.
struct Convolution {
  int64_t frames, height, width;
  int64_t inputs, inputs2;    // channels; the second has none where turned
  int64_t outputs, outputs2;  // likewise, where not turned
  int64_t kernel_height, kernel_width;
  int64_t top, left;  // zeros before the first row and column, less than the kernel
  Tile tile;
  bool turned;
};

// What it reads and writes: (frames, height, width, channels); pixels of y lie y_stride floats apart.
struct ConvolutionFrames {
  const float *x, *x2;
  const float* weights;  // of pack_convolution
  float* y;
  int64_t y_stride;
  float* y2;
};

// weight (outputs, inputs, height, width) and weight2 (outputs, inputs2, ..), null without inputs2; where
// turned (inputs, outputs, ..) and (inputs, outputs2, ..).
NATIVE_DECLARE_ISA(int64_t packed_convolution_size(const Convolution&))
NATIVE_DECLARE_ISA(void pack_convolution(const Convolution&, const float* weight, const float* weight2,
                                         float* packed))
NATIVE_DECLARE_ISA(void run_convolution(const Convolution&, const ConvolutionFrames&, int threads))

}  // namespace convlstm
