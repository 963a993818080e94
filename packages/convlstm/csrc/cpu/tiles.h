// Winograd's minimal filtering F(2x2, 3x3) and F(2x2, 5x5) (Winograd 1980; Lavin & Gray 2015, arXiv
// 1509.09308, sections 4.1 and 5.1): a tile of (Part + 1)^2 inputs gives 2x2 outputs of a kernel of
// Part x Part,
//   Y = A' [ (G g G') . (B' d B) ] A,
// with 16 products a channel in place of 36, and 36 in place of 100. By Toom and Cook's construction over
// the points 0, 1, -1 and infinity, and 0, 1, -1, 1/2, -2 and infinity. The latter points are those, of
// small numbers, whose rounding is least (Barabasz et al. 2020, arXiv 1803.10986, section 5.1): for a sum
// over 64 channels with results of unit variance the largest error was 6e-6, of a plain sum in order 2e-6,
// of F(2x2, 3x3) 1e-6. In float only.
#pragma once

#include "cpu/numbers.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int largest_part = 5, most_positions = (largest_part + 1) * (largest_part + 1);

// The three transforms of one dimension; elements of t lie `step` apart.
template <int Part>
struct Filtering;

template <>
struct Filtering<3> {
  static constexpr int side = 4;

  static CONVLSTM_INLINE void inputs(const Vector (&d)[side], Vector* t, int step) {
    t[0] = d[0] - d[2];
    t[step] = d[1] + d[2];
    t[2 * step] = d[2] - d[1];
    t[3 * step] = d[1] - d[3];
  }
  static CONVLSTM_INLINE void outputs(const Vector (&m)[side], Vector& first, Vector& second) {
    first = m[0] + m[1] + m[2];
    second = m[1] - m[2] - m[3];
  }
  static CONVLSTM_INLINE void kernel(const float (&g)[3], float (&u)[side]) {
    u[0] = g[0];
    u[1] = 0.5f * (g[0] + g[1] + g[2]);
    u[2] = 0.5f * (g[0] - g[1] + g[2]);
    u[3] = g[2];
  }
};

template <>
struct Filtering<5> {
  static constexpr int side = 6;

  static CONVLSTM_INLINE void inputs(const Vector (&d)[side], Vector* t, int step) {
    t[0] = (d[0] + d[4]) + 1.5f * (d[3] - d[1]) - 2.0f * d[2];
    t[step] = (d[4] - d[1]) + 0.5f * d[2] + 2.5f * d[3];
    t[2 * step] = (d[1] + d[4]) - 2.5f * d[2] + 0.5f * d[3];
    t[3 * step] = (d[4] - d[2]) + 2.0f * (d[3] - d[1]);
    t[4 * step] = (d[4] - d[2]) + 0.5f * (d[1] - d[3]);
    t[5 * step] = (d[1] + d[5]) + 1.5f * (d[4] - d[2]) - 2.0f * d[3];
  }
  static CONVLSTM_INLINE void outputs(const Vector (&m)[side], Vector& first, Vector& second) {
    first = (m[0] + m[1]) + (m[2] + m[3]) + m[4];
    second = (m[1] - m[2]) + (0.5f * m[3] - 2.0f * m[4]) + m[5];
  }
  static CONVLSTM_INLINE void kernel(const float (&g)[5], float (&u)[side]) {
    const float even = g[0] + g[2] + g[4], odd = g[1] + g[3];
    u[0] = g[0];
    u[1] = (even + odd) * (1.0f / 3);
    u[2] = (odd - even) * (1.0f / 3);
    u[3] = (16 * g[0] + 8 * g[1] + 4 * g[2] + 2 * g[3] + g[4]) * (-1.0f / 15);
    u[4] = (g[0] - 2 * g[1] + 4 * g[2] - 8 * g[3] + 16 * g[4]) * (1.0f / 15);
    u[5] = g[4];
  }
};

// B' d B for `count` channels of one tile from the pixels' addresses, at most as many as a vector has.
template <int Part, bool Whole>
CONVLSTM_INLINE void transform_lanes(const float* const* d, int64_t c, int64_t count, float* out,
                                     int64_t stride) {
  using T = Filtering<Part>;
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
template <int Part>
void transform_input(const float* const* d, int64_t channels, float* out, int64_t stride) {
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) transform_lanes<Part, true>(d, c, lanes, out, stride);
  if (c < channels) transform_lanes<Part, false>(d, c, channels - c, out, stride);
}

// A' m A for one vector of columns of a tile: products (positions, columns) to 2x2 pixels.
template <int Part>
CONVLSTM_INLINE void tile_outputs(const float* m, int64_t stride, Vector (&y)[4]) {
  using T = Filtering<Part>;
  Vector upper[T::side], lower[T::side];
#pragma GCC unroll 6
  for (int j = 0; j < T::side; ++j) {
    Vector line[T::side];
#pragma GCC unroll 6
    for (int i = 0; i < T::side; ++i) line[i] = at(m + (T::side * i + j) * stride);
    T::outputs(line, upper[j], lower[j]);
  }
  T::outputs(upper, y[0], y[1]);
  T::outputs(lower, y[2], y[3]);
}

// G g G' of the kernels (taps, columns) to (positions, columns).
template <int Part>
void transform_kernels(const float (&taps)[largest_part * largest_part][columns],
                       float (&u)[most_positions][columns]) {
  using T = Filtering<Part>;
#pragma omp simd
  for (int j = 0; j < columns; ++j) {
    float t[Part][T::side], line[Part], out[T::side];
    for (int y = 0; y < Part; ++y) {
      for (int x = 0; x < Part; ++x) line[x] = taps[Part * y + x][j];
      T::kernel(line, t[y]);
    }
    for (int x = 0; x < T::side; ++x) {
      for (int y = 0; y < Part; ++y) line[y] = t[y][x];
      T::kernel(line, out);
      for (int y = 0; y < T::side; ++y) u[T::side * y + x][j] = out[y];
    }
  }
}

}  // namespace
}  // namespace convlstm::NATIVE_ISA
