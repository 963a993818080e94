// Winograd's minimal filtering F(2x2, 3x3) and F(4x4, 3x3) (Winograd 1980; Lavin & Gray 2015, arXiv
// 1509.09308, sections 4.1 and 4.3): a tile of (Out + 2)^2 inputs gives Out x Out outputs of a kernel of 3x3,
//   Y = A' [ (G g G') . (B' d B) ] A,
// with 16 products a channel in place of 36, and 36 in place of 144. The kernel's gradient from that of the
// outputs, dY, has the same products: dg = G' [ (A dY A') . (B' d B) ] G. By Toom and Cook's construction
// over the points 0, 1, -1 and infinity, and 0, 1, -1, 1/2, -2 and infinity. The latter points are those, of
// small numbers, whose rounding is least (Barabasz et al. 2020, arXiv 1803.10986, section 5.1): for a sum
// over 64 channels with results of unit variance the largest of 10,240 errors was 7.7e-6, of a plain sum in
// order 2.5e-6, of F(2x2, 3x3) 1.2e-6; their root mean squares 1.1e-6, 4.4e-7 and 2.7e-7. In float only.
#pragma once

#include "cpu/numbers.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int part = 3;  // a side of the kernels of tiles
constexpr int largest_out = 4, most_positions = (largest_out + part - 1) * (largest_out + part - 1);

// The transforms of one dimension, of numbers or vectors of them: B' d, A' m, A y, G g and G' u. Elements of
// t lie `step` apart.
template <int Out>
struct Filtering;

template <>
struct Filtering<2> {
  static constexpr int side = 4;

  static CONVLSTM_INLINE void inputs(const Vector (&d)[side], Vector* t, int step) {
    t[0] = d[0] - d[2];
    t[step] = d[1] + d[2];
    t[2 * step] = d[2] - d[1];
    t[3 * step] = d[1] - d[3];
  }
  static CONVLSTM_INLINE void outputs(const Vector (&m)[side], Vector* y, int step) {
    y[0] = m[0] + m[1] + m[2];
    y[step] = m[1] - m[2] - m[3];
  }
  static CONVLSTM_INLINE void outputs_back(const Vector (&y)[2], Vector* m, int step) {
    m[0] = y[0];
    m[step] = y[0] + y[1];
    m[2 * step] = y[0] - y[1];
    m[3 * step] = Vector{} - y[1];
  }
  template <class T>
  static CONVLSTM_INLINE void kernel(const T (&g)[part], T (&u)[side]) {
    u[0] = g[0];
    u[1] = 0.5f * (g[0] + g[1] + g[2]);
    u[2] = 0.5f * (g[0] - g[1] + g[2]);
    u[3] = g[2];
  }
  static CONVLSTM_INLINE void kernel_back(const Vector (&u)[side], Vector (&g)[part]) {
    const Vector even = 0.5f * (u[1] + u[2]);
    g[0] = u[0] + even;
    g[1] = 0.5f * (u[1] - u[2]);
    g[2] = even + u[3];
  }
};

template <>
struct Filtering<4> {
  static constexpr int side = 6;

  static CONVLSTM_INLINE void inputs(const Vector (&d)[side], Vector* t, int step) {
    t[0] = (d[0] + d[4]) + 1.5f * (d[3] - d[1]) - 2.0f * d[2];
    t[step] = (d[4] - d[1]) + 0.5f * d[2] + 2.5f * d[3];
    t[2 * step] = (d[1] + d[4]) - 2.5f * d[2] + 0.5f * d[3];
    t[3 * step] = (d[4] - d[2]) + 2.0f * (d[3] - d[1]);
    t[4 * step] = (d[4] - d[2]) + 0.5f * (d[1] - d[3]);
    t[5 * step] = (d[1] + d[5]) + 1.5f * (d[4] - d[2]) - 2.0f * d[3];
  }
  static CONVLSTM_INLINE void outputs(const Vector (&m)[side], Vector* y, int step) {
    const Vector sum = m[1] + m[2], difference = m[1] - m[2];
    y[0] = (m[0] + sum) + (m[3] + m[4]);
    y[step] = difference + (0.5f * m[3] - 2.0f * m[4]);
    y[2 * step] = sum + (0.25f * m[3] + 4.0f * m[4]);
    y[3 * step] = (difference + m[5]) + (0.125f * m[3] - 8.0f * m[4]);
  }
  static CONVLSTM_INLINE void outputs_back(const Vector (&y)[4], Vector* m, int step) {
    const Vector even = y[0] + y[2], odd = y[1] + y[3];
    m[0] = y[0];
    m[step] = even + odd;
    m[2 * step] = even - odd;
    m[3 * step] = (y[0] + 0.25f * y[2]) + 0.5f * (y[1] + 0.25f * y[3]);
    m[4 * step] = (y[0] + 4.0f * y[2]) - 2.0f * (y[1] + 4.0f * y[3]);
    m[5 * step] = y[3];
  }
  template <class T>
  static CONVLSTM_INLINE void kernel(const T (&g)[part], T (&u)[side]) {
    u[0] = g[0];
    u[1] = (g[0] + g[2] + g[1]) * (1.0f / 3);
    u[2] = (g[1] - (g[0] + g[2])) * (1.0f / 3);
    u[3] = (4.0f * g[0] + 2.0f * g[1] + g[2]) * (-4.0f / 15);
    u[4] = (g[0] - 2.0f * g[1] + 4.0f * g[2]) * (1.0f / 15);
    u[5] = g[2];
  }
  static CONVLSTM_INLINE void kernel_back(const Vector (&u)[side], Vector (&g)[part]) {
    const Vector third = (1.0f / 3) * (u[1] - u[2]), half = (-4.0f / 15) * u[3], two = (1.0f / 15) * u[4];
    g[0] = (u[0] + third) + (4.0f * half + two);
    g[1] = (1.0f / 3) * (u[1] + u[2]) + 2.0f * (half - two);
    g[2] = (third + u[5]) + (half + 4.0f * two);
  }
};

// B' d B for `count` channels of one tile from the pixels' addresses, at most as many as a vector has.
template <int Out, bool Whole>
CONVLSTM_INLINE void transform_lanes(const float* const* d, int64_t c, int64_t count, float* out,
                                     int64_t stride) {
  using T = Filtering<Out>;
  Vector t[T::side * T::side], line[T::side], u[T::side];
#pragma GCC unroll 6
  for (int j = 0; j < T::side; ++j) {
#pragma GCC unroll 6
    for (int i = 0; i < T::side; ++i) {
      const float* from = d[T::side * i + j] + c;
      if constexpr (Whole)
        line[i] = at(from);
      else
        line[i] = load_some<float, lanes>(from, count);
    }
    T::inputs(line, t + j, T::side);
  }
#pragma GCC unroll 6
  for (int i = 0; i < T::side; ++i) {
#pragma GCC unroll 6
    for (int j = 0; j < T::side; ++j) line[j] = t[T::side * i + j];
    T::inputs(line, u, 1);
#pragma GCC unroll 6
    for (int j = 0; j < T::side; ++j) {
      float* to = out + (T::side * i + j) * stride + c;
      if constexpr (Whole)
        at(to) = u[j];
      else
        store_some<float, lanes>(u[j], to, count);
    }
  }
}

// B' d B for one tile: d has its pixels, each with its channels side by side.
template <int Out>
void transform_input(const float* const* d, int64_t channels, float* out, int64_t stride) {
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) transform_lanes<Out, true>(d, c, lanes, out, stride);
  if (c < channels) transform_lanes<Out, false>(d, c, channels - c, out, stride);
}

// A' m A for one vector of columns of a tile: products (positions, columns) to Out x Out pixels.
template <int Out>
CONVLSTM_INLINE void tile_outputs(const float* m, int64_t stride, Vector* y) {
  using T = Filtering<Out>;
  Vector t[Out * T::side], line[T::side];
#pragma GCC unroll 6
  for (int j = 0; j < T::side; ++j) {
#pragma GCC unroll 6
    for (int i = 0; i < T::side; ++i) line[i] = at(m + (T::side * i + j) * stride);
    T::outputs(line, t + j, T::side);
  }
#pragma GCC unroll 4
  for (int i = 0; i < Out; ++i) {
#pragma GCC unroll 6
    for (int j = 0; j < T::side; ++j) line[j] = t[T::side * i + j];
    T::outputs(line, y + Out * i, 1);
  }
}

// G g G' of the kernels (taps, columns) to (positions, columns).
template <int Out>
void transform_kernels(const float (&taps)[part * part][columns], float (&u)[most_positions][columns]) {
  using T = Filtering<Out>;
#pragma omp simd
  for (int j = 0; j < columns; ++j) {
    float t[part][T::side], line[part], out[T::side];
    for (int y = 0; y < part; ++y) {
      for (int x = 0; x < part; ++x) line[x] = taps[part * y + x][j];
      T::kernel(line, t[y]);
    }
    for (int x = 0; x < T::side; ++x) {
      for (int y = 0; y < part; ++y) line[y] = t[y][x];
      T::kernel(line, out);
      for (int y = 0; y < T::side; ++y) u[T::side * y + x][j] = out[y];
    }
  }
}

}  // namespace
}  // namespace convlstm::NATIVE_ISA
