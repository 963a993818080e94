// Blocks of rows (rows.h) times panels of weights, a panel for each `columns` outputs.
#include "cpu/convolution.h"

#include <algorithm>
#include <cstring>

#include "cpu/rows.h"
#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

Grid grid_of(const Convolution& c) {
  Grid g = {};
  g.frames = c.frames, g.height = c.height, g.width = c.width;
  g.channels = c.inputs, g.channels2 = c.inputs2;
  g.kernel_height = c.kernel_height, g.kernel_width = c.kernel_width;
  g.top = c.turned ? c.kernel_height - 1 - c.top : c.top;
  g.left = c.turned ? c.kernel_width - 1 - c.left : c.left;
  g.tile = c.tile;
  return g;
}

int64_t panels_of(const Convolution& c) { return (c.outputs + c.outputs2 + columns - 1) / columns; }

// Columns [first, first + lanes) of a pixel.
CONVLSTM_INLINE void store(const Convolution& c, const ConvolutionFrames& f, Vector y, int64_t first,
                           int64_t pixel) {
  if (first + lanes <= c.outputs) {
    at(f.y + pixel * f.y_stride + first) = y;
  } else if (first >= c.outputs && first + lanes <= c.outputs + c.outputs2) {
    at(f.y2 + pixel * c.outputs2 + first - c.outputs) = y;
  } else {
    float some[lanes];
    at(some) = y;
    const int64_t own = std::clamp<int64_t>(c.outputs - first, 0, lanes);
    const int64_t end = std::min<int64_t>(lanes, c.outputs + c.outputs2 - first);
    for (int64_t j = 0; j < own; ++j) f.y[pixel * f.y_stride + first + j] = some[j];
    for (int64_t j = own; j < end; ++j) f.y2[pixel * c.outputs2 + first + j - c.outputs] = some[j];
  }
}

template <int Vectors>
void run_panel(const Convolution& c, const ConvolutionFrames& f, const Grid& g, int64_t panel, int64_t first,
               int64_t count, int64_t rows, Workspace<float>& w) {
  multiply_panel<Vectors>(g, f.weights, panels_of(c), panel, count, rows, w);
  Place place(g, first);
  PanelOutputs<Vectors> out;
  for (int64_t k = 0; k < count;) {
    k += make_outputs(g, place, w.products.data() + k * columns, rows, count - k, out);
    for (int v = 0; v < Vectors; ++v)
      for (int p = 0; p < out.groups * group; ++p)
        if (const int64_t pixel = out.pixels[p / group].at[p % group]; pixel >= 0)
          store(c, f, out.y[v][p], panel * columns + v * lanes, pixel);
  }
}

}  // namespace

int64_t packed_convolution_size(const Convolution& c) { return panels_size(grid_of(c), panels_of(c), false); }

void pack_convolution(const Convolution& c, const float* weight, const float* weight2, float* packed) {
  const int64_t taps = c.kernel_height * c.kernel_width, every = c.outputs + c.outputs2;
  auto kernel = [&](int64_t in, int64_t panel, int j) -> const float* {
    const int64_t out = panel * columns + j;
    if (out >= every) return nullptr;
    if (c.turned && out < c.outputs) return weight + (in * c.outputs + out) * taps;
    if (c.turned) return weight2 + (in * c.outputs2 + out - c.outputs) * taps;
    if (in < c.inputs) return weight + (out * c.inputs + in) * taps;
    return weight2 + (out * c.inputs2 + in - c.inputs) * taps;
  };
  pack_panels(grid_of(c), panels_of(c), c.turned, kernel, packed);
}

void run_convolution(const Convolution& c, const ConvolutionFrames& f, int threads) {
  const Grid g = grid_of(c);
  if (threads <= 0) threads = native::max_threads();
  const int64_t rows = g.block_rows(false, threads), panels = panels_of(c);
  native::parallel_for(g.rows(), rows, threads, [&](int64_t first, int64_t end) {
    thread_local Workspace<float> w;
    load_rows<float>(g, f.x, f.x2, first, end - first, rows, w);
    for (int64_t panel = 0; panel < panels; ++panel)
      if (c.outputs + c.outputs2 - panel * columns > lanes)
        run_panel<2>(c, f, g, panel, first, end - first, rows, w);
      else
        run_panel<1>(c, f, g, panel, first, end - first, rows, w);
  });
}

}  // namespace convlstm::NATIVE_ISA
