// Step by step from the last: the gates (gates.cpp), then the convolution of their gradients with the
// turned kernels, which gives the gradients of the state and of the input side by side.
#include "cpu/steps_backward.h"

#include <algorithm>
#include <cstring>

#include "cpu/gates.h"
#include "cpu/rows.h"
#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

Grid grid_of(const Geometry& s) {
  Grid g = {};
  g.frames = s.frames, g.height = s.height, g.width = s.width;
  g.channels = 4 * s.filters;
  g.kernel_height = s.kernel_height, g.kernel_width = s.kernel_width;
  g.top = s.kernel_height - 1 - s.top, g.left = s.kernel_width - 1 - s.left;
  g.part = part_of(s.winograd, s.kernel_height, s.kernel_width, false);
  return g;
}

int64_t panels_of(int64_t filters, int64_t channels) { return (filters + channels + columns - 1) / columns; }

// Where the convolution goes: its first `filters` columns to d_h, the others to d_x.
struct Outputs {
  int64_t filters, channels;
  float *d_h, *d_x;

  // Columns [first, first + lanes) of a pixel.
  CONVLSTM_INLINE void store(Vector y, int64_t first, int64_t pixel) const {
    if (first + lanes <= filters) {
      at(d_h + pixel * filters + first) = y;
    } else if (first >= filters && first + lanes <= filters + channels) {
      at(d_x + pixel * channels + first - filters) = y;
    } else {
      float some[lanes];
      at(some) = y;
      const int64_t state = std::clamp<int64_t>(filters - first, 0, lanes);
      const int64_t end = std::min<int64_t>(lanes, filters + channels - first);
      for (int64_t j = 0; j < state; ++j) d_h[pixel * filters + first + j] = some[j];
      for (int64_t j = state; j < end; ++j) d_x[pixel * channels + first + j - filters] = some[j];
    }
  }
};

template <int Vectors>
void finish_panel(const Grid& g, const Outputs& out, int64_t first_column, int64_t first_row, int64_t count,
                  int64_t rows, const float* products) {
  Place place(g, first_row);
  for (int64_t k = 0; k < count; ++k, products += columns) {
    if (g.winograd()) {
      const Pixels pixels = place.tile_pixels(g);
      for (int v = 0; v < Vectors; ++v) {
        Vector y[group];
        tile_outputs(g, products + v * lanes, spread<float>(rows * columns), y);
        for (int p = 0; p < group; ++p)
          if (pixels.at[p] >= 0) out.store(y[p], first_column + v * lanes, pixels.at[p]);
      }
      place.next(g);
    } else {
      for (int v = 0; v < Vectors; ++v)
        out.store(at(products + v * lanes), first_column + v * lanes, first_row + k);
    }
  }
}

void run_block(const Grid& g, const float* d_pre, const float* weights, const Outputs& out, int64_t first,
               int64_t count, int64_t rows, Workspace<float>& w) {
  load_rows<float>(g, d_pre, nullptr, first, count, rows, w);
  const int64_t every = out.filters + out.channels, panels = panels_of(out.filters, out.channels);
  for (int64_t panel = 0; panel < panels; ++panel) {
    if (every - panel * columns > lanes) {
      multiply_panel<2>(g, weights, panels, panel, count, rows, w);
      finish_panel<2>(g, out, panel * columns, first, count, rows, w.products.data());
    } else {
      multiply_panel<1>(g, weights, panels, panel, count, rows, w);
      finish_panel<1>(g, out, panel * columns, first, count, rows, w.products.data());
    }
  }
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

int64_t packed_backward_size(const Geometry& s) {
  return panels_size(grid_of(s), panels_of(s.filters, s.channels), false);
}

void pack_steps_backward(const Geometry& s, const Weights& w, float* packed) {
  const int64_t taps = s.kernel_height * s.kernel_width;
  auto kernel = [&](int64_t k, int64_t panel, int j) -> const float* {
    const int64_t out = panel * columns + j;
    if (out < s.filters) return w.state + (k * s.filters + out) * taps;
    if (out < s.filters + s.channels) return w.input + (k * s.channels + out - s.filters) * taps;
    return nullptr;
  };
  pack_panels(grid_of(s), panels_of(s.filters, s.channels), true, kernel, packed);
}

void run_steps_backward(const StepsBackward& s, int threads) {
  const Grid g = grid_of(s);
  if (threads <= 0) threads = native::max_threads();
  const int64_t rows = g.block_rows(false, threads), pixels = s.frames * s.height * s.width;
  const int64_t state = pixels * s.filters;
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
    const Outputs out{s.filters, s.channels, s.d_h, s.channels ? s.d_x + t * pixels * s.channels : nullptr};
    native::parallel_for(g.rows(), rows, threads, [&](int64_t begin, int64_t end) {
      thread_local Workspace<float> w;
      run_block(g, d_pre, s.weights, out, begin, end - begin, rows, w);
    });
    if (valid) carried.add(s.d_h);
  }
}

}  // namespace convlstm::NATIVE_ISA
