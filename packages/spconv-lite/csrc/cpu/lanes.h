// Work in which every channel is a lane of its own: depthwise convolution and pools. Over plain memory, for
// one block of output rows; compiled for each instruction set. T is float or double; rows of x and y have
// `channels` values side by side.
#pragma once

#include <cstdint>

#include <cpu/tiles.h>
#include <native/dispatch.h>

namespace spconv_lite {

template <class T>
struct Lanes {
  const T* x;
  int64_t x_rows, channels;
  T* y;
};

// y[row] = bias + sum over offsets and pairs of x[in] * weight[k]; weight is (volume, channels), bias may be
// null, mirror reads weight[volume - 1 - k]. Each of these returns false if a pair names a row that does not
// exist.
NATIVE_DECLARE_ISA(template <class T> bool depthwise_block(const BlockMap& map, const Lanes<T>& f,
                                                           const T* weight, const T* bias, bool mirror))

// sums[k] (volume, channels) += sum over the pairs of offset k of x[in] * y[out].
NATIVE_DECLARE_ISA(template <class T>
                   bool depthwise_correlate(const BlockMap& map, const Lanes<const T>& f, T* sums))

// y[row] = the maximum of `least` and the x[in] of all pairs; 0 for a row without pairs. Not-a-number wins.
NATIVE_DECLARE_ISA(template <class T> bool max_block(const BlockMap& map, const Lanes<T>& f, T least))

// y[row] = sum of the x[in] of all pairs whose marks are equal: of_x (x_rows, channels) at `in`, of_y
// (rows, channels) at `out`.
NATIVE_DECLARE_ISA(template <class T>
                   bool select_block(const BlockMap& map, const Lanes<T>& f, const T* of_x, const T* of_y))

}  // namespace spconv_lite
