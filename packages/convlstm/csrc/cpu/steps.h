// All steps of a ConvLSTM over channels-last frames in one call: the convolution of input and state side by
// side, with the gates as its epilogue.
#pragma once

#include <cstdint>

#include "core/gates.h"
#include "cpu/tile.h"
#include "native/dispatch.h"

namespace convlstm {

// Sizes and options of a sequence.
struct Geometry {
  int64_t steps, frames, height, width;  // of the states and, where there is one, of the input
  int64_t channels, filters;  // of the input (0: none, or its gradient is not wanted) and the state
  int64_t kernel_height, kernel_width;
  int64_t top, left;  // zeros before the first row and column in the forward pass, less than the kernel
  Tile tile;          // is_known(low)
  Activation activation, recurrent;

  int64_t pixels() const { return frames * height * width; }
};

// As torch has them: (4 filters, channels, height, width), null without channels, and
// (4 filters, filters, height, width).
struct Weights {
  const float *input, *state;
};

// Input and state are of type E: float, or bfloat16 as uint16_t. Sums, gates and cell state are float.
template <class E>
struct Steps : Geometry {
  const E* x;         // (steps, frames, height, width, channels)
  const float* pre;   // (steps, frames, height, width, 4 filters): added to the gates' arguments; may be null
  const E* h_before;  // (frames, height, width, filters)
  const float* c;     // (frames, height, width, filters): before the first step
  const E* weights;   // of pack_steps
  const float* bias;  // (4 filters) or null
  const float* peephole;  // (3, filters) or null
  const uint8_t* valid;   // (steps, frames) or null: elsewhere both states are carried over

  bool every_step;  // whether `h` holds all steps; else two, and step t is in [t % 2]
  E* h;             // (steps or 2, frames, height, width, filters)
  float* c_last;    // (frames, height, width, filters): after the last step, and at work; it may be `c`
  float* gates;     // (steps, frames, height, width, 4 filters), activated; null: not wanted
};

// Elements of the packed weights.
NATIVE_DECLARE_ISA(int64_t packed_size(const Geometry&, bool low))

NATIVE_DECLARE_ISA(void pack_steps_float(const Geometry&, const Weights&, float* packed))
NATIVE_DECLARE_ISA(void run_steps_float(const Steps<float>&, int threads))

// Whether this processor and build multiply bfloat16 (AVX512-BF16). The two below need that.
NATIVE_DECLARE_ISA(bool has_bfloat16())
NATIVE_DECLARE_ISA(void pack_steps_bfloat16(const Geometry&, const Weights&, uint16_t* packed))
NATIVE_DECLARE_ISA(void run_steps_bfloat16(const Steps<uint16_t>&, int threads))

}  // namespace convlstm
