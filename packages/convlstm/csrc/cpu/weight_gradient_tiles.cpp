// The weight gradient by Winograd's minimal filtering (tiles.h). A tile's inputs and the gradient of its
// outputs go through their transforms; over tiles the products are sums of outer products, one for each
// position in the tile; the sums go through the kernel's transform at the end.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/outer_products.h"
#include "cpu/rows.h"
#include "cpu/weight_gradient.h"
#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

// A share has at least so many tiles: fewer are not worth sums of their own.
constexpr int64_t least_tiles = 96;

struct Operands {
  Workspace<float> inputs;
  Buffer<float> outputs;  // (products, spread(block rows, columns))
};

// The grid of one part of the kernel: a kernel of its own.
Grid grid_of(const WeightGradient& w, int64_t down, int64_t across) {
  Grid g = {};
  g.height = w.height, g.width = w.width;
  g.channels = w.channels, g.channels2 = w.channels2;
  g.kernel_height = g.kernel_width = w.tile.part;
  g.top = w.top - w.tile.part * down, g.left = w.left - w.tile.part * across;
  g.tile = w.tile;
  return g;
}

// A dY A' of one tile, of `count` output channels from `first` on, to positions `stride` apart; adds the sum
// over its pixels to `bias`.
template <class T>
CONVLSTM_NOINLINE void load_outputs(const WeightGradient& w, const Grid& g, const Place& place,
                                    const float* d_out, int64_t count, float* to, int64_t stride,
                                    float* bias) {
  for (int v = 0; v < 2; ++v, count -= lanes, d_out += lanes, to += lanes, bias += lanes) {
    const int64_t kept = std::clamp<int64_t>(count, 0, lanes);
    Vector t[T::side * T::out], line[T::out], u[T::side], sum{};
    for (int x = 0; x < T::out; ++x) {
      for (int y = 0; y < T::out; ++y) {
        const bool inside = place.y + y < g.height && place.x + x < g.width;
        const int64_t pixel = (place.frame * g.height + place.y + y) * g.width + place.x + x;
        line[y] = inside ? load_some<float, lanes>(d_out + pixel * w.out_channels, kept) : Vector{};
        sum += line[y];
      }
      T::outputs_back(line, t + x, T::out);
    }
    at(bias) += sum;
    for (int i = 0; i < T::side; ++i) {
      for (int x = 0; x < T::out; ++x) line[x] = t[T::out * i + x];
      T::outputs_back(line, u, 1);
      for (int j = 0; j < T::side; ++j) at(to + (T::side * i + j) * stride) = u[j];
    }
  }
}

// Rows [first, first + count) of the grid for all output channels: to sums (products, channels, padded_out),
// then (padded_out) of the bias.
void add_rows(const WeightGradient& w, const Grid& g, const float* x, const float* x2, const float* d_out,
              int64_t first, int64_t count, int64_t rows, float* sums, int64_t padded_out, Operands& o) {
  load_rows<float>(g, x, x2, first, count, rows, o.inputs);
  const int64_t depth = g.every_channel(), in_stride = spread<float>(rows * depth);
  const int64_t out_stride = spread<float>(rows * columns);
  float* bias = sums + g.products() * depth * padded_out;
  o.outputs.grow(g.products() * out_stride);
  for (int64_t k = 0; k < w.out_channels; k += columns) {
    const int64_t kept = std::min<int64_t>(columns, w.out_channels - k);
    Place place(g, first);
    for (int64_t r = 0; r < count; ++r, place.next(g)) {
      float* to = o.outputs.data() + r * columns;
      with_filtering(g.tile, [&](auto t) {
        load_outputs<decltype(t)>(w, g, place, d_out + k, kept, to, out_stride, bias + k);
      });
    }
    for (int64_t q = 0; q < g.products(); ++q) {
      const Group tiles{
          1, count, count, depth, o.inputs.inputs.data() + q * in_stride, o.outputs.data() + q * out_stride};
      float* to = sums + q * depth * padded_out + k;
      if (kept > lanes)
        accumulate_channels<2>(tiles, 0, 0, to, padded_out);
      else
        accumulate_channels<1>(tiles, 0, 0, to, padded_out);
    }
  }
}

// Frames [begin, end), of which the second input's lie in one piece.
void add_frames(const WeightGradient& w, Grid g, int64_t begin, int64_t end, float* sums, int64_t padded_out,
                Operands& o) {
  const int64_t pixels = w.height * w.width;
  const float* x = w.channels ? w.x + begin * pixels * w.channels : nullptr;
  const float* x2 = begin < w.first_frames ? w.first2 + begin * pixels * w.channels2
                    : w.channels2          ? w.x2 + (begin - w.first_frames) * pixels * w.channels2
                                           : nullptr;
  g.frames = end - begin;
  const int64_t rows = g.block_rows(false, 1);
  for (int64_t first = 0; first < g.rows(); first += rows)
    add_rows(w, g, x, x2, w.d_out + begin * pixels * w.out_channels, first, std::min(rows, g.rows() - first),
             rows, sums, padded_out, o);
}

// G' u G of the sums of all shares, in order, for one input channel and `lanes` output channels: added to the
// taps of part (down, across) of the kernels at `d`, `stride` apart.
template <class T>
void add_kernels(const WeightGradient& w, const float* sums, const Shares& shares, int64_t size,
                 int64_t position_stride, int64_t down, int64_t across, float* d, int64_t stride,
                 int64_t outs) {
  Vector t[T::part * T::side], line[T::side], g[T::part], back[T::part];
  for (int j = 0; j < T::side; ++j) {
    for (int i = 0; i < T::side; ++i) {
      line[i] = Vector{};
      for (int64_t share = 0; share < shares.count; ++share)
        line[i] += at(sums + share * size + (T::side * i + j) * position_stride);
    }
    T::kernel_back(line, back);
    for (int y = 0; y < T::part; ++y) t[T::side * y + j] = back[y];
  }
  for (int y = 0; y < T::part && T::part * down + y < w.kernel_height; ++y) {
    for (int j = 0; j < T::side; ++j) line[j] = t[T::side * y + j];
    T::kernel_back(line, g);
    for (int x = 0; x < T::part && T::part * across + x < w.kernel_width; ++x) {
      float* tap = d + (T::part * down + y) * w.kernel_width + T::part * across + x;
      for (int64_t k = 0; k < outs; ++k) tap[k * stride] += g[x][k];
    }
  }
}

void add_sums(const WeightGradient& w, const Grid& g, const float* sums, const Shares& shares, int64_t size,
              int64_t padded_out, int64_t down, int64_t across) {
  const int64_t taps = w.kernel_height * w.kernel_width, channels = w.every_channel();
  for (int64_t first = 0; first < w.out_channels; first += lanes) {
    const int64_t outs = std::min<int64_t>(lanes, w.out_channels - first);
    for (int64_t c = 0; c < channels; ++c) {
      const bool second = c >= w.channels;
      const int64_t every = second ? w.channels2 : w.channels, own = second ? c - w.channels : c;
      float* d = (second ? w.d_weight2 : w.d_weight) + (first * every + own) * taps;
      const float* from = sums + c * padded_out + first;
      with_filtering(g.tile, [&](auto t) {
        add_kernels<decltype(t)>(w, from, shares, size, channels * padded_out, down, across, d, every * taps,
                                 outs);
      });
    }
    const float* bias = sums + g.products() * channels * padded_out + first;
    for (int64_t share = 0; w.d_bias && down + across == 0 && share < shares.count; ++share)
      for (int64_t k = 0; k < outs; ++k) w.d_bias[first + k] += bias[share * size + k];
  }
}

}  // namespace

void weight_gradient_tiles(const WeightGradient& w, int threads) {
  const int64_t padded_out = round_up(w.out_channels, columns);
  for (int64_t down = 0; w.tile.part * down < w.kernel_height; ++down)
    for (int64_t across = 0; w.tile.part * across < w.kernel_width; ++across) {
      Grid g = grid_of(w, down, across);
      const int64_t size = (g.products() * w.every_channel() + 1) * padded_out;
      const int64_t tiles = g.rows_down() * g.rows_across();
      const Shares shares(w.frames, size, (least_tiles + tiles - 1) / tiles);
      std::vector<float> sums(shares.count * size);
      native::parallel_for(w.frames, shares.frames, threads, [&](int64_t begin, int64_t end) {
        thread_local Operands o;
        float* own = sums.data() + begin / shares.frames * size;
        const int64_t middle = std::clamp(w.channels2 ? w.first_frames : 0, begin, end);
        if (begin < middle) add_frames(w, g, begin, middle, own, padded_out, o);
        if (middle < end) add_frames(w, g, middle, end, own, padded_out, o);
      });
      add_sums(w, g, sums.data(), shares, size, padded_out, down, across);
    }
}

}  // namespace convlstm::NATIVE_ISA
