// Sparse convolution over a compact rulebook (cpu/rulebook.h) on the CPU. T is float or
// double, or Bfloat16 where narrow::available() and the channels of a group are even: summed in float.
// Weights are (out_channels, K, in_channels / groups), as spconv's KRSC with the kernel axes joined. Results
// have the same bits for any number of threads.
#pragma once

#include <cstdint>

#include <cpu/narrow.h>

namespace spconv_lite {

struct Map {
  const int32_t* pair_in;
  const uint8_t* pair_out;
  const int64_t* block_offset;
  int64_t pairs, in_rows, out_rows, volume;
  // (out_rows = in_rows), the row at each place: pairs name places in place of rows; null: they are the same.
  const int32_t* order = nullptr;
};

template <class T>
struct SumType {
  using type = T;
};
template <>
struct SumType<Bfloat16> {
  using type = float;
};

// y (out_rows, out_channels) = the sum over k of the pairs' x (in_rows, in_channels) @ weight[:, k].T, ended
// by what `ends` (out_channels) says.
// Throws native::ValueError if the map names rows that x or y do not have. Features that are not of the type
// T of the weight are bfloat16 and T float: they are widened as they are read, and rounded as they are
// written.
template <class T, class X, class Y>
void convolve(const Map& map, const X* x, int64_t in_channels, const T* weight,
              const Ends<typename SumType<T>::type>& ends, int64_t out_channels, int64_t groups, Y* y,
              int threads);

// x (in_rows of the forward map, in_channels) = sum over k of the pairs' gradient @ weight[:, k]. `map`
// is the transposed map; for a submanifold with an odd kernel it may be the forward map with mirror.
template <class T, class X>
void convolve_back(const Map& map, bool mirror, const X* gradient, int64_t out_channels, const T* weight,
                   int64_t in_channels, int64_t groups, X* x, int threads);

// weight_gradient (out_channels, K, in_channels / groups), over the forward map.
template <class T, class X>
void correlate(const Map& map, const X* x, int64_t in_channels, const X* gradient, int64_t out_channels,
               int64_t groups, T* weight_gradient, int threads);

// y (out_rows, channels) = the maximum of `least` and the x of a row's pairs; 0 for a row without pairs.
template <class T>
void max_pool(const Map& map, const T* x, int64_t channels, T least, T* y, int threads);

// y (out_rows, channels) = sum of the x of a row's pairs, channel by channel those where of_x (in_rows,
// channels) at the input row equals of_y (out_rows, channels) at the output row.
template <class T>
void select_sum(const Map& map, const T* x, const T* of_x, const T* of_y, int64_t channels, T* y,
                int threads);

}  // namespace spconv_lite
