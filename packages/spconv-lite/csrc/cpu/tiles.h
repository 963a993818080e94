// The inner loops of convolution on the CPU, over plain memory; compiled for each instruction set.
// T is float or double.
#pragma once

#include <cstdint>

#include <cpu/pairs.h>
#include <native/dispatch.h>

namespace spconv_lite {

struct Bfloat16 {
  uint16_t bits;
};

// The pairs of one block of output rows: offset k has pairs [offset[k], offset[k + 1]).
struct BlockMap {
  const int32_t* pair_in;
  const uint8_t* pair_out;
  const int64_t* offset;
  int64_t volume;
  int64_t rows;          // output rows of this block, at most block_rows
  int64_t first;         // the place of its first row
  const int32_t* order;  // the row at each place; null where they are the same
};

static inline int64_t row_at(const BlockMap& map, int64_t place) {
  return map.order != nullptr ? map.order[map.first + place] : map.first + place;
}

// One group of channels, all rows. Rows of x and y are x_stride and y_stride values apart.
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

// Output channels are handled in panels: one offset's weights for a panel stay in the second-level cache
// while they meet the pairs of several blocks.
inline constexpr int64_t panel_columns = 64;

// The weights of one panel: raw[y * y_step + k * k_step + x * x_step], one of x_step and y_step 1. Where they
// were packed before, those of offset k lie at packed + k * packed_step.
template <class T>
struct PanelWeights {
  const T* raw;
  int64_t y_step, k_step, x_step;
  const T* packed;
  int64_t packed_step;
};

// What becomes of a finished sum: sum + bias, or sum * scale + bias where there is a scale; and then, with
// `rectified`, at least zero (not-a-number stays). Both of padded(y_channels), or null.
template <class T>
struct Ends {
  const T* bias = nullptr;
  const T* scale = nullptr;
  bool rectified = false;
};

// to[i] = from[order[i]] for i in [begin, end) and rows of `bytes` bytes.
NATIVE_DECLARE_ISA(void gather_rows(const char* from, const int32_t* order, int64_t begin, int64_t end,
                                    int64_t bytes, char* to))

// to[i] = from[order[i]] (from[i] where order is null) for i in [begin, end), as float32.
NATIVE_DECLARE_ISA(void widen_rows(const Bfloat16* from, const int32_t* order, int64_t begin, int64_t end,
                                   int64_t channels, float* to))

// The rows of to at the places of `map` = those of from, map.rows side by side; to nearest, ties to even.
NATIVE_DECLARE_ISA(void round_rows(const float* from, int64_t channels, const BlockMap& map, Bfloat16* to,
                                   int64_t to_stride))

// packed = the weights raw[x * x_step + y * y_step] as the tiles of this instruction set read them, with
// zeros up to padded(columns); x_channels * padded(columns) values.
NATIVE_DECLARE_ISA(template <class T> void pack_panel(const T* raw, int64_t x_channels, int64_t x_step,
                                                      int64_t columns, int64_t y_step, T* packed))

// y = the sum over k and pairs of x[pair_in] @ weight[k], ended, for the panel of f.y_channels columns and
// `blocks` blocks from map.offset on; map.rows counts the rows of all of them. `panel` is scratch of
// (x_channels, padded(f.y_channels)) where the weights are not packed; `sums` of (rows,
// padded(f.y_channels)). False if a pair names a row that does not exist.
NATIVE_DECLARE_ISA(template <class T> bool convolve_panel(const BlockMap& map, int64_t blocks,
                                                          const Features<T>& f,
                                                          const PanelWeights<T>& weights, const Ends<T>& ends,
                                                          T* panel, T* sums))

// Sums over pairs, sums[x channel * stride + y channel], (x_channels, padded(y_channels)). Added to what is
// there, or put in its place by the first of them.
template <class T>
struct PairSums {
  T* sums;
  int64_t stride;
  bool first;
};

// sums += sum over the pairs of offset k of x[pair_in] ⊗ y[pair_out] for `blocks` blocks from map.offset on;
// map.rows counts the rows of all of them. `turned`: x is read at pair_out and y at pair_in. `rows` is
// scratch of (correlated_rows, padded(y_channels)). x_rows counts the rows that pair_in may name.
NATIVE_DECLARE_ISA(template <class T> bool correlate_blocks(const BlockMap& map, int64_t blocks, int64_t k,
                                                            bool turned, const Features<const T>& f, T* rows,
                                                            PairSums<T>* to))

}  // namespace spconv_lite
