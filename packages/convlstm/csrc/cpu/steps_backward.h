// The backward pass of all steps of a ConvLSTM over channels-last frames in one call, but for the weights'
// gradients (weight_gradient.h), which follow from `d_pre` over all steps at once.
#pragma once

#include <cstdint>

#include "cpu/steps.h"

namespace convlstm {

struct StepsBackward : Geometry {
  const float* gates;     // (steps, frames, height, width, 4 filters), activated
  float* cells;           // (steps + 1, frames, height, width, filters): the first given, the others made
  const float* d_hs;      // (steps, frames, height, width, filters) or null
  const float* weights;   // of pack_steps_backward
  const float* peephole;  // (3, filters) or null
  const uint8_t* valid;   // (steps, frames) or null

  float* d_h;  // (frames, height, width, filters): of the state after the last step in, before the first out
  float* d_c;  // likewise, of the cell state
  float* d_pre;  // (steps, frames, height, width, 4 filters): of the gates' arguments
  float* d_x;    // (steps, frames, height, width, channels); null without channels
};

NATIVE_DECLARE_ISA(int64_t packed_backward_size(const Geometry&))
NATIVE_DECLARE_ISA(void pack_steps_backward(const Geometry&, const Weights&, float* packed))
NATIVE_DECLARE_ISA(void run_steps_backward(const StepsBackward&, int threads))

}  // namespace convlstm
