// Step by step from the last: the gates (gates.cpp), then the convolution of their gradients with the
// turned kernels, which gives the gradients of the state and of the input side by side.
#include "cpu/steps_backward.h"

#include <algorithm>
#include <cstring>

#include "cpu/blocks.h"
#include "cpu/convolution.h"
#include "cpu/gates.h"

namespace convlstm::NATIVE_ISA {
namespace {

// From the gradients of the gates' arguments to those of the state and the input.
Convolution convolution_of(const Geometry& s) {
  return {s.frames,        s.height,       s.width, 4 * s.filters, 0,      s.filters, s.channels,
          s.kernel_height, s.kernel_width, s.top,   s.left,        s.tile, true};
}

// A sequence that is not valid in a step hands the gradients of its state through.
struct Carried {
  Buffer<float> kept;
  int64_t frames, size;
  const uint8_t* valid;

  void keep(const float* d_h, const float* d_shown) {
    kept.grow(frames * size);
    for (int64_t n = 0; n < frames; ++n)
      for (int64_t j = n * size; !valid[n] && j < (n + 1) * size; ++j)
        kept.data()[j] = d_h[j] + (d_shown ? d_shown[j] : 0.0f);
  }

  void add(float* d_h) const {
    for (int64_t n = 0; n < frames; ++n)
      for (int64_t j = n * size; !valid[n] && j < (n + 1) * size; ++j) d_h[j] += kept.data()[j];
  }
};

void make_cells(const StepsBackward& s, int64_t state, int threads) {
  for (int64_t t = 0; t < s.steps; ++t) {
    const CellStep<float> cell{
        s.frames * s.height * s.width, s.filters,           s.height * s.width,
        s.gates + t * 4 * state,       s.cells + t * state, s.valid ? s.valid + t * s.frames : nullptr,
        s.cells + (t + 1) * state};
    cell_state_float(cell, threads);
  }
}

}  // namespace

int64_t packed_backward_size(const Geometry& s) { return packed_convolution_size(convolution_of(s)); }

void pack_steps_backward(const Geometry& s, const Weights& w, float* packed) {
  pack_convolution(convolution_of(s), w.state, w.input, packed);
}

void run_steps_backward(const StepsBackward& s, int threads) {
  const Convolution convolution = convolution_of(s);
  const int64_t pixels = s.pixels(), state = pixels * s.filters;
  make_cells(s, state, threads);
  Carried carried{{}, s.frames, s.height * s.width * s.filters, nullptr};
  for (int64_t t = s.steps - 1; t >= 0; --t) {
    const float* d_shown = s.d_hs ? s.d_hs + t * state : nullptr;
    const uint8_t* valid = s.valid ? s.valid + t * s.frames : nullptr;
    float* d_pre = s.d_pre + t * 4 * state;
    const BackwardStep<float> step{pixels,
                                   s.filters,
                                   s.height * s.width,
                                   s.gates + t * 4 * state,
                                   s.cells + t * state,
                                   s.cells + (t + 1) * state,
                                   d_shown,
                                   s.d_h,
                                   s.peephole,
                                   valid,
                                   s.d_c,
                                   d_pre};
    gates_backward_float(step, s.activation, s.recurrent, threads);
    carried.valid = valid;
    if (valid) carried.keep(s.d_h, d_shown);
    float* d_x = s.channels ? s.d_x + t * pixels * s.channels : nullptr;
    run_convolution(convolution, {d_pre, nullptr, s.weights, s.d_h, s.filters, d_x}, threads);
    if (valid) carried.add(s.d_h);
  }
}

}  // namespace convlstm::NATIVE_ISA
