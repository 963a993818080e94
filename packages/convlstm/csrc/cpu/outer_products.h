// Sums of outer products: a block of input channels times a block of output channels over the pixels of a
// few rows, in registers.
#pragma once

#include <algorithm>

#include "cpu/blocks.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int most_inputs = tile_rows;  // channels of a block of registers

// The rows of one group, packed.
struct Group {
  int64_t rows, width, padded_width, channels;
  const float* input;    // (rows + kernel height - 1, padded_width, channels)
  const float* outputs;  // (rows, width, columns)
};

// Adds to sums (Inputs, stride) for one tap, the input channels from `first` on; of the columns the first
// Vectors x lanes.
template <int Inputs, int Vectors>
void accumulate(const Group& g, int64_t ky, int64_t kx, int64_t first, float* sums, int64_t stride) {
  Vector a[Inputs], b[Inputs];
  for (int c = 0; c < Inputs; ++c) a[c] = Vector{}, b[c] = Vector{};
  for (int64_t row = 0; row < g.rows; ++row) {
    const float* in = g.input + ((row + ky) * g.padded_width + kx) * g.channels + first;
    const float* out = g.outputs + row * g.width * columns;
    for (int64_t x = 0; x < g.width; ++x, in += g.channels, out += columns) {
      const Vector low = at(out), high = at(out + lanes);
#pragma GCC unroll 12
      for (int c = 0; c < Inputs; ++c) {
        a[c] += in[c] * low;
        if constexpr (Vectors == 2) b[c] += in[c] * high;
      }
    }
  }
  for (int c = 0; c < Inputs; ++c, sums += stride) {
    at(sums) += a[c];
    if constexpr (Vectors == 2) at(sums + lanes) += b[c];
  }
}

template <int Inputs, int Vectors>
void accumulate_rest(int rest, const Group& g, int64_t ky, int64_t kx, int64_t first, float* sums,
                     int64_t stride) {
  if constexpr (Inputs > 0) {
    if (rest == Inputs)
      accumulate<Inputs, Vectors>(g, ky, kx, first, sums, stride);
    else
      accumulate_rest<Inputs - 1, Vectors>(rest, g, ky, kx, first, sums, stride);
  }
}

// All input channels for one tap: sums (channels, stride).
template <int Vectors>
void accumulate_channels(const Group& g, int64_t ky, int64_t kx, float* sums, int64_t stride) {
  int64_t c = 0;
  for (; c + most_inputs <= g.channels; c += most_inputs)
    accumulate<most_inputs, Vectors>(g, ky, kx, c, sums + c * stride, stride);
  accumulate_rest<most_inputs - 1, Vectors>(static_cast<int>(g.channels - c), g, ky, kx, c, sums + c * stride,
                                            stride);
}

// Frames are cut into a fixed number of shares with sums of their own, added in order at the end: the result
// does not depend on the number of threads.
struct Shares {
  static constexpr int64_t most = 16, most_sums = 1 << 20;  // floats of all of them

  int64_t frames, count;  // of each share but the last; of shares

  // For sums of `size` floats; a share has at least so many frames.
  Shares(int64_t every_frame, int64_t size, int64_t least_frames) {
    const int64_t wanted = std::clamp<int64_t>(most_sums / size, 1, most);
    frames = std::max<int64_t>({1, least_frames, (every_frame + wanted - 1) / wanted});
    count = std::max<int64_t>(1, (every_frame + frames - 1) / frames);
  }
};

}  // namespace
}  // namespace convlstm::NATIVE_ISA
