// Winograd's minimal filtering F(2x2, 3x3): Lavin & Gray 2015 (arXiv 1509.09308), sections 4.1 and 5.
//
// A tile of 4x4 inputs gives 2x2 outputs with 16 products a channel in place of 36:
//   Y = A' [ (G g G') . (B' d B) ] A,
//   B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1],  A' = [1 1 1 0; 0 1 -1 -1],
//   G = [1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1].
// Over channels the products are 16 matrix products, one for each position in the tile. They run on
// blocks of tiles whose transformed inputs and products stay in the second-level cache.
#include "cpu/winograd.h"

#include <algorithm>

#include "cpu/blocks.h"
#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int64_t cache_floats = 64 * 1024;  // of each of the two blocks: half of a 512 KiB cache
constexpr int64_t most_tiles = 96;
// Fewer would read the weights too often; with many channels the inputs then spill to the next cache.
constexpr int64_t least_tiles = 24;

// What a block of tiles works in.
struct Workspace {
  int64_t tiles, channels, width;  // rows and columns of the inputs, columns of the products
  Buffer<float> inputs;            // (positions, tiles, channels)
  Buffer<float> products;          // (positions, tiles, width)
  Buffer<float> zeros;             // a pixel outside the frame
};

// A' m A for one tile. Of its 2x2 outputs the second row and column may lie outside the frame: those are
// written to the place of an output that lies inside, before it.
void transform_output(const float* m, int64_t stride, int64_t channels, float* out, int64_t row_stride,
                      int64_t pixel_stride, bool second_row, bool second_column) {
  float *y00 = out, *y01 = second_column ? out + pixel_stride : out;
  float* y10 = second_row ? out + row_stride : out;
  float* y11 = second_row && second_column ? out + row_stride + pixel_stride : out;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    float s[4], d[4];
    for (int j = 0; j < 4; ++j) {
      const float a = m[j * stride + c], b = m[(4 + j) * stride + c];
      const float e = m[(8 + j) * stride + c], f = m[(12 + j) * stride + c];
      s[j] = a + b + e;
      d[j] = b - e - f;
    }
    y11[c] = d[1] - d[2] - d[3];
    y10[c] = d[0] + d[1] + d[2];
    y01[c] = s[1] - s[2] - s[3];
    y00[c] = s[0] + s[1] + s[2];
  }
}

struct Place {
  int64_t frame, y, x;  // of the first output of a tile
};

Place place_of(const Winograd& w, int64_t tile) {
  const int64_t across = (w.out_width + 1) / 2, down = (w.out_height + 1) / 2;
  return {tile / (across * down), tile / across % down * 2, tile % across * 2};
}

void load_tiles(const Winograd& w, int64_t first, int64_t count, Workspace& s) {
  const int64_t stride = s.tiles * s.channels;
  for (int64_t k = 0; k < count; ++k) {
    const Place p = place_of(w, first + k);
    float* row = s.inputs.data() + k * s.channels;
    for (int64_t down = 0; down < w.parts_down; ++down)
      for (int64_t across = 0; across < w.parts_across; ++across) {
        const float *pixels[16], *pixels2[16];
        const int64_t top = p.y + 3 * down - w.top, left = p.x + 3 * across - w.left;
        for (int i = 0; i < 16; ++i) {
          const int64_t y = top + i / 4, x = left + i % 4;
          const bool inside = y >= 0 && y < w.height && x >= 0 && x < w.width;
          const int64_t pixel = (p.frame * w.height + y) * w.width + x;
          pixels[i] = inside ? w.x + pixel * w.channels : s.zeros.data();
          pixels2[i] = inside && w.channels2 ? w.x2 + pixel * w.channels2 : s.zeros.data();
        }
        transform_input(pixels, w.channels, row, stride);
        if (w.channels2) transform_input(pixels2, w.channels2, row + w.channels, stride);
        row += w.channels + w.channels2;
      }
  }
}

void store_tiles(const Winograd& w, int64_t first, int64_t count, int64_t first_out, int64_t outs,
                 const Workspace& s) {
  for (int64_t k = 0; k < count; ++k) {
    const Place p = place_of(w, first + k);
    const int64_t pixel = (p.frame * w.out_height + p.y) * w.out_width + p.x;
    const float* products = s.products.data() + k * s.width;
    const int64_t here = std::clamp<int64_t>(w.out_channels - first_out, 0, outs);
    auto store = [&](float* out, int64_t channels, int64_t from, int64_t skip, int64_t count_out) {
      transform_output(products + skip, s.tiles * s.width, count_out, out + pixel * channels + from,
                       w.out_width * channels, channels, p.y + 1 < w.out_height, p.x + 1 < w.out_width);
    };
    if (here) store(w.out, w.out_channels, first_out, 0, here);
    if (here < outs) store(w.out2, w.out_channels2, first_out + here - w.out_channels, here, outs - here);
  }
}

void run_tiles(const Winograd& w, int64_t first, int64_t count, Workspace& s) {
  load_tiles(w, first, count, s);
  const int64_t rows = round_up(count, tile_rows), panel = s.channels * columns;
  const int64_t every_out = w.out_channels + w.out_channels2;
  const int64_t panels = round_up(every_out, columns) / columns;
  for (int64_t first_out = 0; first_out < every_out; first_out += s.width) {
    const int64_t outs = std::min(s.width, every_out - first_out);
    for (int64_t q = 0; q < positions; ++q) {
      const float* inputs = s.inputs.data() + q * s.tiles * s.channels;
      float* products = s.products.data() + q * s.tiles * s.width;
      for (int64_t k = 0; k < outs; k += columns) {
        const float* weights = w.transformed + (q * panels + (first_out + k) / columns) * panel;
        const auto product = outs - k > lanes ? multiply<2> : multiply<1>;
        for (int64_t r = 0; r < rows; r += tile_rows)
          product(inputs + r * s.channels, s.channels, weights, products + r * s.width + k, s.width);
      }
    }
    store_tiles(w, first, count, first_out, outs, s);
  }
}

int64_t tiles_per_block(const Winograd& w) {
  const int64_t fitting = cache_floats / (positions * std::max<int64_t>(1, w.every_channel()));
  return std::clamp<int64_t>(fitting, least_tiles, most_tiles) / tile_rows * tile_rows;
}

void size_workspace(const Winograd& w, Workspace& s) {
  s.channels = w.every_channel();
  s.tiles = tiles_per_block(w);
  s.width = std::max<int64_t>(cache_floats / (positions * s.tiles) / columns, 1) * columns;
  s.width = std::min(s.width, round_up(w.out_channels + w.out_channels2, columns));
  s.inputs.grow(positions * s.tiles * s.channels);
  s.products.grow(positions * s.tiles * s.width);
  const int64_t most_channels = std::max(w.channels, w.channels2);
  s.zeros.grow(most_channels);
  std::fill_n(s.zeros.data(), most_channels, 0.0f);
}

}  // namespace

int64_t winograd_size(int64_t channels, int64_t out_channels) {
  return positions * channels * round_up(out_channels, columns);
}

void winograd_weights(const float* weights, int64_t channels, int64_t out_channels, float* transformed) {
  const int64_t panels = round_up(out_channels, columns) / columns, panel = channels * columns;
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t here = std::min<int64_t>(columns, out_channels - p * columns);
    for (int64_t c = 0; c < channels; ++c) {
      const float* g = weights + c * 9 * out_channels + p * columns;
      float* u = transformed + p * panel + c * columns;
#pragma omp simd
      for (int64_t k = 0; k < here; ++k) {
        float t[12];
        for (int j = 0; j < 3; ++j) {
          const float a = g[j * out_channels + k], b = g[(3 + j) * out_channels + k];
          const float e = g[(6 + j) * out_channels + k];
          t[j] = a;
          t[3 + j] = 0.5f * (a + b + e);
          t[6 + j] = 0.5f * (a - b + e);
          t[9 + j] = e;
        }
        for (int i = 0; i < 4; ++i) {
          const float a = t[3 * i], b = t[3 * i + 1], e = t[3 * i + 2];
          u[(4 * i) * panels * panel + k] = a;
          u[(4 * i + 1) * panels * panel + k] = 0.5f * (a + b + e);
          u[(4 * i + 2) * panels * panel + k] = 0.5f * (a - b + e);
          u[(4 * i + 3) * panels * panel + k] = e;
        }
      }
      for (int64_t k = here; k < columns; ++k)
        for (int64_t q = 0; q < positions; ++q) u[q * panels * panel + k] = 0.0f;
    }
  }
}

void winograd(const Winograd& w, int threads) {
  const int64_t tiles = w.frames * ((w.out_height + 1) / 2) * ((w.out_width + 1) / 2);
  native::parallel_for(tiles, tiles_per_block(w), threads, [&](int64_t begin, int64_t end) {
    thread_local Workspace s;
    size_workspace(w, s);
    run_tiles(w, begin, end - begin, s);
  });
}

}  // namespace convlstm::NATIVE_ISA
