// The inner loops of convolution on the CPU, over plain memory; compiled for each instruction set.
// T is float or double.
#pragma once

#include <cstdint>

#include <cpu/pairs.h>
#include <native/dispatch.h>

namespace spconv_lite {

// The pairs of one block of output rows: offset k has pairs [offset[k], offset[k + 1]).
struct BlockMap {
  const int32_t* pair_in;
  const uint8_t* pair_out;
  const int64_t* offset;
  int64_t volume;
  int64_t rows;  // output rows of this block, at most block_rows
};

// One group of channels. Rows of x and y are x_stride and y_stride values apart.
template <class T>
struct Features {
  const T* x;
  int64_t x_rows, x_stride, x_channels;
  T* y;
  int64_t y_stride, y_channels;
};

// Pairs whose products are summed before the sums are stored.
inline constexpr int64_t correlated_rows = 256;

// Packed channels are padded to a multiple of this, so that vectors never need a tail.
inline constexpr int64_t pad_to = 16;

static inline int64_t padded(int64_t channels) { return (channels + pad_to - 1) / pad_to * pad_to; }

// The weight of one kernel offset: packed (x_channels, padded(y_channels)); or, for an offset with few pairs
// in the whole map, which packing would cost more than it saves, where it lies: weight[x * x_step +
// y * y_step], one of the steps 1. Null where the offset has no pairs.
template <class T>
struct OffsetWeight {
  const T* packed;
  const T* raw;
};

template <class T>
struct Weights {
  const OffsetWeight<T>* of;  // (volume)
  int64_t x_step, y_step;     // of the raw ones
};

// packed[x * padded(y_channels) + y] = raw[x * x_step + y * y_step], zeros beyond y_channels.
NATIVE_DECLARE_ISA(template <class T> void pack_weight(const T* raw, int64_t x_channels, int64_t x_step,
                                                       int64_t y_channels, int64_t y_step, T* packed))

// y[block] = bias + sum over k and pairs of x[pair_in] @ weight[k]; bias is padded(y_channels) or null;
// `sums` is scratch of (block_rows, padded(y_channels)). False if a pair names a row that does not exist.
NATIVE_DECLARE_ISA(template <class T> bool convolve_block(const BlockMap& map, const Features<T>& f,
                                                          const Weights<T>& weights, const T* bias, T* sums))

// sums[x channel, y channel] += sum over the pairs of offset k of x[pair_in] ⊗ y[pair_out]: (x_channels,
// padded(y_channels)), for `blocks` blocks from map.offset on; map.rows counts the rows of all of them.
// `rows` is scratch of (correlated_rows, padded(y_channels)).
NATIVE_DECLARE_ISA(template <class T> bool correlate_blocks(const BlockMap& map, int64_t blocks, int64_t k,
                                                            const Features<const T>& f, T* rows, T* sums))

}  // namespace spconv_lite
