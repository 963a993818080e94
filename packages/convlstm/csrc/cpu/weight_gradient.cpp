// Rank-1 updates in registers: a block of input channels times a block of output channels, summed over
// the pixels of a few rows. Both operands are packed first: the input with its zero border, so that
// taps need no tests, and one block of output channels, so that it is read in order.
// Of kernels larger than one pixel there is a faster way, weight_gradient_tiles.cpp.
#include "cpu/weight_gradient.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/outer_products.h"
#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int64_t pixels_per_group = 192;  // of the packed operands: they stay in the first-level cache

// Where frame n of both inputs lies.
struct Frame {
  const float *x, *x2;

  Frame(const WeightGradient& w, int64_t n) {
    const int64_t size = w.height * w.width * w.channels, size2 = w.height * w.width * w.channels2;
    x = w.channels ? w.x + n * size : nullptr;
    x2 = !w.channels2         ? nullptr
         : n < w.first_frames ? w.first2 + n * size2
                              : w.x2 + (n - w.first_frames) * size2;
  }
};

// Copies a row of the inputs, their channels side by side.
void pack_row(const WeightGradient& w, const Frame& frame, int64_t y, int64_t pixels, float* packed) {
  const float *x = frame.x + y * w.width * w.channels, *x2 = frame.x2 + y * w.width * w.channels2;
  if (w.channels2 == 0 || w.channels == 0) {
    std::memcpy(packed, w.channels ? x : x2, pixels * w.every_channel() * sizeof(float));
    return;
  }
  for (int64_t p = 0; p < pixels; ++p, x += w.channels, x2 += w.channels2) {
    for (int64_t c = 0; c < w.channels; ++c) *packed++ = x[c];
    for (int64_t c = 0; c < w.channels2; ++c) *packed++ = x2[c];
  }
}

// Copies rows [y, y + rows) of the padded frame, zeros outside it.
void pack_input(const WeightGradient& w, const Frame& frame, int64_t y, int64_t rows, int64_t padded_width,
                float* packed) {
  const int64_t channels = w.every_channel(), row_floats = padded_width * channels;
  const int64_t pixels = std::min(w.width, padded_width - w.left);
  for (int64_t r = 0; r < rows; ++r, packed += row_floats) {
    const int64_t source = y + r - w.top;
    if (source < 0 || source >= w.height) {
      std::fill_n(packed, row_floats, 0.0f);
      continue;
    }
    const int64_t before = w.left * channels;
    std::fill_n(packed, before, 0.0f);
    pack_row(w, frame, source, pixels, packed + before);
    std::fill(packed + before + pixels * channels, packed + row_floats, 0.0f);
  }
}

// Packs output channels [first, first + columns) and adds their sums to `bias` (columns).
void pack_outputs(const WeightGradient& w, const float* rows, int64_t pixels, int64_t first, float* packed,
                  float* bias) {
  const int64_t kept = std::min<int64_t>(columns, w.out_channels - first);
  Vector low{}, high{};
  rows += first;
  for (int64_t p = 0; p < pixels; ++p, rows += w.out_channels, packed += columns) {
    if (kept == columns) {
      at(packed) = at(rows);
      at(packed + lanes) = at(rows + lanes);
    } else {
      for (int64_t j = 0; j < columns; ++j) packed[j] = j < kept ? rows[j] : 0.0f;
    }
    low += at(packed);
    high += at(packed + lanes);
  }
  at(bias) += low;
  at(bias + lanes) += high;
}

// All taps and input channels for one packed block of output channels.
template <int Vectors>
void add_block(const WeightGradient& w, const Group& g, float* sums, int64_t padded_out) {
  for (int64_t ky = 0; ky < w.kernel_height; ++ky)
    for (int64_t kx = 0; kx < w.kernel_width; ++kx) {
      float* tap = sums + (ky * w.kernel_width + kx) * g.channels * padded_out;
      accumulate_channels<Vectors>(g, ky, kx, tap, padded_out);
    }
}

// sums: (kernel_height, kernel_width, channels, padded_out), then (padded_out) of the bias
void add_group(const WeightGradient& w, Group g, const float* d_rows, float* outputs, float* sums,
               int64_t padded_out) {
  float* bias = sums + w.kernel_height * w.kernel_width * g.channels * padded_out;
  for (int64_t first_out = 0; first_out < w.out_channels; first_out += columns) {
    pack_outputs(w, d_rows, g.rows * g.width, first_out, outputs, bias + first_out);
    if (w.out_channels - first_out > lanes)
      add_block<2>(w, g, sums + first_out, padded_out);
    else
      add_block<1>(w, g, sums + first_out, padded_out);
  }
}

void add_frames(const WeightGradient& w, int64_t begin, int64_t end, float* sums, int64_t padded_out) {
  const int64_t rows_per_group =
      std::clamp<int64_t>(pixels_per_group / std::max<int64_t>(1, w.out_width), 1, w.out_height);
  const int64_t padded_width = w.out_width + w.kernel_width - 1;
  const int64_t channels = w.every_channel();
  std::vector<float> input((rows_per_group + w.kernel_height - 1) * padded_width * channels);
  std::vector<float> outputs(rows_per_group * w.out_width * columns);
  for (int64_t n = begin; n < end; ++n) {
    const Frame frame(w, n);
    const float* d_frame = w.d_out + n * w.out_height * w.out_width * w.out_channels;
    for (int64_t y = 0; y < w.out_height; y += rows_per_group) {
      const int64_t rows = std::min(rows_per_group, w.out_height - y);
      pack_input(w, frame, y, rows + w.kernel_height - 1, padded_width, input.data());
      const Group group{rows, w.out_width, padded_width, channels, input.data(), outputs.data()};
      add_group(w, group, d_frame + y * w.out_width * w.out_channels, outputs.data(), sums, padded_out);
    }
  }
}

// Adds the sums of all shares, in order, to the gradients: `lanes` output channels side by side, so that both
// the sums and each channel's weights are walked in order.
void add_sums(const WeightGradient& w, const float* sums, int64_t shares, int64_t size, int64_t padded_out) {
  const int64_t taps = w.kernel_height * w.kernel_width, channels = w.every_channel();
  auto total = [&](int64_t row, int64_t first) {
    Vector v{};
    for (int64_t share = 0; share < shares; ++share) v += at(sums + share * size + row * padded_out + first);
    return v;
  };
  for (int64_t first = 0; first < w.out_channels; first += lanes) {
    const int64_t outs = std::min<int64_t>(lanes, w.out_channels - first);
    for (int64_t c = 0; c < channels; ++c) {
      const bool second = c >= w.channels;
      const int64_t stride = second ? w.channels2 : w.channels, own = second ? c - w.channels : c;
      float* d = (second ? w.d_weight2 : w.d_weight) + (first * stride + own) * taps;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const Vector v = total(tap * channels + c, first);
        for (int64_t k = 0; k < outs; ++k) d[k * stride * taps + tap] += v[k];
      }
    }
    const Vector bias = total(taps * channels, first);
    for (int64_t k = 0; w.d_bias && k < outs; ++k) w.d_bias[first + k] += bias[k];
  }
}

}  // namespace

void weight_gradient(const WeightGradient& w, int threads) {
  if (w.out_channels == 0 || w.out_height == 0 || w.out_width == 0) return;
  if (w.tile.winograd()) return weight_gradient_tiles(w, threads);
  const int64_t padded_out = round_up(w.out_channels, columns);
  const int64_t size = (w.kernel_height * w.kernel_width * w.every_channel() + 1) * padded_out;
  const Shares shares(w.frames, size, 1);
  std::vector<float> sums(shares.count * size);
  native::parallel_for(w.frames, shares.frames, threads, [&](int64_t begin, int64_t end) {
    add_frames(w, begin, end, sums.data() + begin / shares.frames * size, padded_out);
  });
  add_sums(w, sums.data(), shares.count, size, padded_out);
}

}  // namespace convlstm::NATIVE_ISA
