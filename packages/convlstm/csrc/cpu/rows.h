// Rows of the matrix products that stand for a stride-1 convolution whose outputs lie on the grid of its
// inputs, and the panels of weights that go with them. A row is the window of one pixel, or a tile for
// Winograd's minimal filtering (tiles.h). Over channels the products are matrix products, one for each
// position in the tile. A kernel larger than the tile's is cut into parts, the last of them filled up with
// zeros. Rows go through in blocks whose inputs and products stay in the second-level cache.
#pragma once

#include <algorithm>
#include <cstring>

#include "cpu/bfloat16.h"
#include "cpu/blocks.h"
#include "cpu/tiles.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int64_t block_bytes = 256 * 1024;  // of a block's inputs: they stay in the second-level cache
constexpr int64_t most_rows = 96, least_rows = 24;
constexpr int64_t summed = 32;  // channels that are summed at a time in tiles of 8x8 inputs

// A convolution's sizes. Two inputs of one size act as one with their channels side by side, without a copy.
struct Grid {
  int64_t frames, height, width;
  int64_t channels, channels2;  // of the inputs; the first may have none
  int64_t kernel_height, kernel_width;
  int64_t top, left;  // zeros before the first row and column, less than the kernel
  Tile tile;

  int64_t parts_down() const { return (kernel_height + tile.part - 1) / tile.part; }
  int64_t parts_across() const { return (kernel_width + tile.part - 1) / tile.part; }
  int64_t products() const { return tile.side() * tile.side(); }
  int64_t every_channel() const { return channels + channels2; }
  int64_t used_depth() const { return parts_down() * parts_across() * every_channel(); }
  int64_t depth(bool low) const { return round_up(used_depth(), low ? 2 : 1); }

  int64_t rows_across() const { return (width + tile.out - 1) / tile.out; }
  int64_t rows_down() const { return (height + tile.out - 1) / tile.out; }
  int64_t rows() const { return frames * rows_down() * rows_across(); }

  // Rows of one block: a row is computed alike in any, so they may be fewer for the sake of the threads.
  int64_t block_rows(bool low, int threads) const {
    const int64_t row_bytes = std::max<int64_t>(1, products() * depth(low) * (low ? 2 : 4));
    const int64_t fitting = std::clamp<int64_t>(block_bytes / row_bytes, least_rows, most_rows);
    const int64_t share = round_up((rows() + threads - 1) / threads, tile_rows);
    return std::max<int64_t>(tile_rows, std::min(fitting / tile_rows * tile_rows, share));
  }
};

// Where the pixels of a row, or of `group` rows of one pixel each, lie in the frames; -1: there is none.
constexpr int group = 4;
struct Pixels {
  int64_t at[group];
};

struct Place {
  int64_t frame, y, x;  // of the first output of a row

  Place(const Grid& g, int64_t row) {
    const int64_t across = g.rows_across(), down = g.rows_down();
    frame = row / (across * down), y = row / across % down * g.tile.out, x = row % across * g.tile.out;
  }

  void next(const Grid& g) {
    if ((x += g.tile.out) < g.width) return;
    x = 0;
    if ((y += g.tile.out) < g.height) return;
    y = 0, ++frame;
  }

  // Outputs [first, first + group) of a tile, row by row.
  template <class T>
  Pixels tile_pixels(const Grid& g, int first) const {
    Pixels p;
    for (int k = 0; k < group; ++k) {
      const int64_t py = y + (first + k) / T::out, px = x + (first + k) % T::out;
      p.at[k] = py < g.height && px < g.width ? (frame * g.height + py) * g.width + px : -1;
    }
    return p;
  }
};

// Elements from one product's matrix to the next's: not a multiple of 4096 bytes, or the values of a tile
// would all fall into one set of the first-level cache.
template <class E>
int64_t spread(int64_t elements) {
  constexpr int64_t page = 4096 / sizeof(E), offset = 320 / sizeof(E);
  return round_up(elements - offset, page) + offset;
}

template <class E>
struct Workspace {
  Buffer<E> inputs;        // (products, spread(block rows, depth))
  Buffer<float> products;  // (products, spread(block rows, columns)), a group to read beyond the last row
  Buffer<E> zeros;         // a pixel outside the frame
};

template <class T, class E>
void load_tile(const Grid& g, Place p, const E* x, const E* x2, E* row, int64_t stride, const E* zeros) {
  constexpr int side = T::side, count = side * side;
  for (int64_t down = 0; down < g.parts_down(); ++down)
    for (int64_t across = 0; across < g.parts_across(); ++across) {
      const E *pixels[count], *pixels2[count];
      const int64_t top = p.y + T::part * down - g.top, left = p.x + T::part * across - g.left;
      for (int i = 0; i < count; ++i) {
        const int64_t y = top + i / side, at = left + i % side;
        const bool inside = y >= 0 && y < g.height && at >= 0 && at < g.width;
        const int64_t pixel = (p.frame * g.height + y) * g.width + at;
        pixels[i] = inside && g.channels ? x + pixel * g.channels : zeros;
        pixels2[i] = inside && g.channels2 ? x2 + pixel * g.channels2 : zeros;
      }
      if (g.channels) transform_input<T>(pixels, g.channels, row, stride);
      if (g.channels2) transform_input<T>(pixels2, g.channels2, row + g.channels, stride);
      row += g.every_channel();
    }
}

template <class E>
void load_window(const Grid& g, Place p, const E* x, const E* x2, E* row) {
  for (int64_t down = 0; down < g.kernel_height; ++down)
    for (int64_t across = 0; across < g.kernel_width; ++across) {
      const int64_t y = p.y + down - g.top, at = p.x + across - g.left;
      if (y >= 0 && y < g.height && at >= 0 && at < g.width) {
        const int64_t pixel = (p.frame * g.height + y) * g.width + at;
        if (g.channels) std::memcpy(row, x + pixel * g.channels, g.channels * sizeof(E));
        if (g.channels2) std::memcpy(row + g.channels, x2 + pixel * g.channels2, g.channels2 * sizeof(E));
      } else {
        std::memset(row, 0, g.every_channel() * sizeof(E));
      }
      row += g.every_channel();
    }
}

// Rows [first, first + count) of the inputs x and x2 to w.inputs, whose blocks have `rows` rows.
template <class E>
void load_rows(const Grid& g, const E* x, const E* x2, int64_t first, int64_t count, int64_t rows,
               Workspace<E>& w) {
  const int64_t used = g.used_depth(), depth = g.depth(sizeof(E) == 2), stride = spread<E>(rows * depth);
  w.inputs.grow(g.products() * stride);
  w.products.grow(g.products() * spread<float>(rows * columns) + group * columns);
  const int64_t widest = std::max(g.channels, g.channels2);
  w.zeros.grow(widest);
  std::memset(w.zeros.data(), 0, widest * sizeof(E));
  Place place(g, first);
  for (int64_t k = 0; k < count; ++k, place.next(g)) {
    E* row = w.inputs.data() + k * depth;
    if (g.tile.out == 1)
      load_window(g, place, x, x2, row);
    else if constexpr (sizeof(E) == 2)
      load_tile<Filtering<2, 3>>(g, place, x, x2, row, stride, w.zeros.data());
    else
      with_filtering(g.tile,
                     [&](auto t) { load_tile<decltype(t)>(g, place, x, x2, row, stride, w.zeros.data()); });
    for (int64_t q = 0; used < depth && q < g.products(); ++q) row[q * stride + used] = E(0);
  }
}

// As multiply; in tiles of 8x8 inputs, whose products are large beside their sum, `summed` channels at a
// time.
template <int Vectors, int Rows, class E>
CONVLSTM_INLINE void multiply_parts(const Grid& g, const E* inputs, int64_t depth, const E* weights,
                                    float* products) {
  if constexpr (sizeof(E) == 4)
    if (g.tile.side() == 8) {
      multiply<Vectors, Rows>(inputs, depth, std::min(depth, summed), weights, products);
      for (int64_t c = summed; c < depth; c += summed)
        multiply<Vectors, Rows, true>(inputs + c, depth, std::min(depth - c, summed), weights + c * columns,
                                      products);
      return;
    }
  multiply<Vectors, Rows>(inputs, depth, depth, weights, products);
}

// The products of all rows of w.inputs with panel `panel` of `panels`; of it the first Vectors x lanes
// columns.
template <int Vectors, class E>
void multiply_panel(const Grid& g, const E* weights, int64_t panels, int64_t panel, int64_t count,
                    int64_t rows, Workspace<E>& w) {
  const int64_t depth = g.depth(sizeof(E) == 2);
  for (int64_t q = 0; q < g.products(); ++q) {
    const E* from = w.inputs.data() + q * spread<E>(rows * depth);
    const E* by = weights + (q * panels + panel) * depth * columns;
    float* to = w.products.data() + q * spread<float>(rows * columns);
    int64_t r = 0;
    for (; r + tile_rows <= count; r += tile_rows)
      multiply_parts<Vectors, tile_rows>(g, from + r * depth, depth, by, to + r * columns);
    for (; r < count; r += few_rows)
      multiply_parts<Vectors, few_rows>(g, from + r * depth, depth, by, to + r * columns);
  }
}

// The outputs of some rows: `groups` times the outputs of `group` pixels, for each vector of columns.
template <int Vectors>
struct PanelOutputs {
  Vector y[Vectors][largest_out * largest_out];
  Pixels pixels[largest_out * largest_out / group];
  int groups;
};

template <class T, int Vectors>
void make_tile(const Grid& g, const Place& place, const float* products, int64_t stride,
               PanelOutputs<Vectors>& out) {
  out.groups = T::out * T::out / group;
  for (int v = 0; v < Vectors; ++v) tile_outputs<T>(products + v * lanes, stride, out.y[v]);
  for (int q = 0; q < out.groups; ++q) out.pixels[q] = place.tile_pixels<T>(g, q * group);
}

// The outputs of the first of `count` rows, one tile or `group` windows, whose place moves on. How many rows.
template <int Vectors>
CONVLSTM_NOINLINE int64_t make_outputs(const Grid& g, Place& place, const float* products, int64_t rows,
                                       int64_t count, PanelOutputs<Vectors>& out) {
  const int64_t stride = spread<float>(rows * columns);
  if (g.tile.out == 1) {
    const int64_t made = std::min<int64_t>(group, count);
    out.groups = 1;
    for (int p = 0; p < group; ++p, products += columns) {
      out.pixels[0].at[p] = p < made ? (place.frame * g.height + place.y) * g.width + place.x : -1;
      for (int v = 0; v < Vectors; ++v) out.y[v][p] = at(products + v * lanes);
      place.next(g);
    }
    return made;
  }
  with_filtering(g.tile, [&](auto t) { make_tile<decltype(t)>(g, place, products, stride, out); });
  place.next(g);
  return 1;
}

// Packing

// One row of a panel: the taps of a part of the kernel for each column.
struct PanelRow {
  float g[largest_part * largest_part][columns];
};

// Taps [down, across] on of one kernel, from its end where `turned`; `size` x `size` of them to column j.
inline void gather_kernel(const Grid& g, const float* kernel, bool turned, int64_t down, int64_t across,
                          int j, PanelRow& row) {
  const int64_t size = g.tile.part, taps = g.kernel_height * g.kernel_width;
  for (int64_t y = 0; y < size; ++y)
    for (int64_t x = 0; x < size; ++x) {
      const int64_t ky = size * down + y, kx = size * across + x;
      const bool inside = kernel != nullptr && ky < g.kernel_height && kx < g.kernel_width;
      const int64_t tap = ky * g.kernel_width + kx;
      row.g[y * size + x][j] = inside ? kernel[turned ? taps - 1 - tap : tap] : 0.0f;
    }
}

inline void store_row(const float* from, int64_t row, float* panel) {
  std::memcpy(panel + row * columns, from, columns * sizeof(float));
}

[[maybe_unused]] inline void store_row(const float* from, int64_t row, uint16_t* panel) {
  uint16_t* pairs = panel + row / 2 * 2 * columns + row % 2;
  for (int j = 0; j < columns; ++j) pairs[2 * j] = to_bfloat16(from[j]);
}

// Elements of so many panels.
inline int64_t panels_size(const Grid& g, int64_t panels, bool low) {
  return g.products() * panels * g.depth(low) * columns;
}

// kernel_of(channel, panel, column): where the kernel of an input channel for a column lies, or null.
template <class E, class Kernels>
void pack_panels(const Grid& g, int64_t panels, bool turned, Kernels kernel_of, E* packed) {
  const int64_t every = g.every_channel(), parts = g.parts_down() * g.parts_across();
  const int64_t depth = g.depth(sizeof(E) == 2), panel_size = depth * columns;
  float u[most_positions][columns] = {};
  PanelRow from;
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t row = 0; row < depth; ++row) {
      const int64_t k = row / every, channel = row % every;
      std::memset(&from, 0, sizeof from);
      for (int j = 0; k < parts && j < columns; ++j)
        gather_kernel(g, kernel_of(channel, panel, j), turned, k / g.parts_across(), k % g.parts_across(), j,
                      from);
      if (g.tile.winograd())
        with_filtering(g.tile, [&](auto t) { transform_kernels<decltype(t)>(from.g, u); });
      for (int64_t q = 0; q < g.products(); ++q)
        store_row(g.tile.winograd() ? u[q] : from.g[0], row, packed + (q * panels + panel) * panel_size);
    }
}

}  // namespace
}  // namespace convlstm::NATIVE_ISA
