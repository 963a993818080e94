// Winograd's minimal filtering F(2x2, 3x3), F(4x4, 3x3), F(4x4, 5x5) and F(2x2, 7x7) (Winograd 1980; Lavin &
// Gray 2015, arXiv 1509.09308, sections 4.1 and 4.3): a tile of (out + part - 1)^2 inputs gives out x out
// outputs of a kernel of part x part,
//   Y = A' [ (G g G') . (B' d B) ] A,
// with 16 products a channel in place of 36, 36 in place of 144, 64 in place of 400 and 64 in place of 196.
// The kernel's gradient from that of the outputs, dY, has the same products: dg = G' [ (A dY A') . (B' d B) ]
// G. By Toom and Cook's construction over the points 0, 1, -1 and infinity; 0, 1, -1, 1/2, -2 and infinity;
// and 0, 1, -1, 1/2, -1/2, 2, -2 and infinity. The second points are those, of small numbers, whose rounding
// is least (Barabasz et al. 2020, arXiv 1803.10986, section 5.1): for a sum over 64 channels with results of
// unit variance the largest of 10,240 errors was 7.7e-6, of a plain sum in order 2.5e-6, of F(2x2, 3x3)
// 1.2e-6; their root mean squares 1.1e-6, 4.4e-7 and 2.7e-7. The last eight round more, so that their
// products are summed over 32 channels at a time: the root mean square of F(4x4, 5x5) is 2.5e-6 then, 3.1e-6
// without, and 2.0e-6 in four parts of 3x3; of F(2x2, 7x7) 3.1e-6, 3.9e-6 and 3.3e-6 in nine parts. In float
// only.
#pragma once

#include "cpu/numbers.h"
#include "cpu/tile.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int largest_out = 4, largest_part = 7, most_positions = 64;

template <int Out, int Part>
struct Sides {
  static constexpr int out = Out, part = Part, side = Out + Part - 1;
};

// The transforms of one dimension, of numbers or vectors of them: B' d, A' m, A y, G g and G' u. Elements of
// t lie `step` apart.
template <int Out, int Part>
struct Filtering;

template <>
struct Filtering<2, 3> : Sides<2, 3> {
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
struct Filtering<4, 3> : Sides<4, 3> {
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

// What tiles of 8x8 inputs have in common: their points.
template <int Out, int Part>
struct EightPoints : Sides<Out, Part> {
  static CONVLSTM_INLINE void inputs(const Vector (&d)[8], Vector* t, int step) {
    t[0] = (d[0] - d[6]) + 5.25f * (d[4] - d[2]);
    pair((d[2] + d[6]) - 4.25f * d[4], (d[1] + d[5]) - 4.25f * d[3], t + step, step);
    pair((4.0f * d[2] + d[6]) - 5.0f * d[4], (2.0f * d[1] + 0.5f * d[5]) - 2.5f * d[3], t + 3 * step, step);
    pair((0.25f * d[2] + d[6]) - 1.25f * d[4], (0.5f * d[1] + 2.0f * d[5]) - 2.5f * d[3], t + 5 * step, step);
    t[7 * step] = (d[7] - d[1]) + 5.25f * (d[3] - d[5]);
  }

 protected:
  // The values at x and -x from the even and the odd powers. (No template: a deduced type would claim the
  // alignment of its size, which Vector does not.)
  static CONVLSTM_INLINE void pair(Vector even, Vector odd, Vector* t, int step) {
    t[0] = even + odd;
    t[step] = even - odd;
  }

  // G g from the polynomial's even and odd powers at 1, at 1/2 and at 2, and its first and last coefficient.
  template <class T>
  static CONVLSTM_INLINE void weigh(const T (&even)[3], const T (&odd)[3], T first, T last, T (&u)[8]) {
    u[0] = first;
    for (int k = 0; k < 3; ++k) {
      u[2 * k + 1] = weight[k] * (even[k] + odd[k]);
      u[2 * k + 2] = weight[k] * (even[k] - odd[k]);
    }
    u[7] = last;
  }

  // The weighted sums and differences of u at x and -x, for the three x: G' u is made of them.
  static CONVLSTM_INLINE void weigh_back(const Vector (&u)[8], Vector (&even)[3], Vector (&odd)[3]) {
    for (int k = 0; k < 3; ++k) {
      even[k] = weight[k] * (u[2 * k + 1] + u[2 * k + 2]);
      odd[k] = weight[k] * (u[2 * k + 1] - u[2 * k + 2]);
    }
  }

  static constexpr float weight[3] = {-2.0f / 9, 32.0f / 45, 1.0f / 90};
};

template <>
struct Filtering<4, 5> : EightPoints<4, 5> {
  static CONVLSTM_INLINE void outputs(const Vector (&m)[side], Vector* y, int step) {
    const Vector even = m[1] + m[2], odd = m[1] - m[2];
    const Vector half_even = m[3] + m[4], half_odd = m[3] - m[4];
    const Vector two_even = m[5] + m[6], two_odd = m[5] - m[6];
    y[0] = (m[0] + even) + (half_even + two_even);
    y[step] = odd + (0.5f * half_odd + 2.0f * two_odd);
    y[2 * step] = even + (0.25f * half_even + 4.0f * two_even);
    y[3 * step] = (odd + m[7]) + (0.125f * half_odd + 8.0f * two_odd);
  }
  static CONVLSTM_INLINE void outputs_back(const Vector (&y)[4], Vector* m, int step) {
    m[0] = y[0];
    pair(y[0] + y[2], y[1] + y[3], m + step, step);
    pair(y[0] + 0.25f * y[2], 0.5f * (y[1] + 0.25f * y[3]), m + 3 * step, step);
    pair(y[0] + 4.0f * y[2], 2.0f * (y[1] + 4.0f * y[3]), m + 5 * step, step);
    m[7 * step] = y[3];
  }
  template <class T>
  static CONVLSTM_INLINE void kernel(const T (&g)[part], T (&u)[side]) {
    const T even[3] = {g[0] + g[2] + g[4], g[0] + 0.25f * (g[2] + 0.25f * g[4]),
                       g[0] + 4.0f * (g[2] + 4.0f * g[4])};
    const T odd[3] = {g[1] + g[3], 0.5f * (g[1] + 0.25f * g[3]), 2.0f * (g[1] + 4.0f * g[3])};
    weigh(even, odd, g[0], g[4], u);
  }
  static CONVLSTM_INLINE void kernel_back(const Vector (&u)[side], Vector (&g)[part]) {
    Vector even[3], odd[3];
    weigh_back(u, even, odd);
    g[0] = (u[0] + even[0]) + (even[1] + even[2]);
    g[1] = odd[0] + (0.5f * odd[1] + 2.0f * odd[2]);
    g[2] = even[0] + (0.25f * even[1] + 4.0f * even[2]);
    g[3] = odd[0] + (0.125f * odd[1] + 8.0f * odd[2]);
    g[4] = (u[7] + even[0]) + (0.0625f * even[1] + 16.0f * even[2]);
  }
};

template <>
struct Filtering<2, 7> : EightPoints<2, 7> {
  static CONVLSTM_INLINE void outputs(const Vector (&m)[side], Vector* y, int step) {
    y[0] = (m[0] + (m[1] + m[2])) + ((m[3] + m[4]) + (m[5] + m[6]));
    y[step] = ((m[1] - m[2]) + m[7]) + (0.5f * (m[3] - m[4]) + 2.0f * (m[5] - m[6]));
  }
  static CONVLSTM_INLINE void outputs_back(const Vector (&y)[2], Vector* m, int step) {
    m[0] = y[0];
    pair(y[0], y[1], m + step, step);
    pair(y[0], 0.5f * y[1], m + 3 * step, step);
    pair(y[0], 2.0f * y[1], m + 5 * step, step);
    m[7 * step] = y[1];
  }
  template <class T>
  static CONVLSTM_INLINE void kernel(const T (&g)[part], T (&u)[side]) {
    const T even[3] = {g[0] + g[2] + g[4] + g[6], g[0] + 0.25f * (g[2] + 0.25f * (g[4] + 0.25f * g[6])),
                       g[0] + 4.0f * (g[2] + 4.0f * (g[4] + 4.0f * g[6]))};
    const T odd[3] = {g[1] + g[3] + g[5], 0.5f * (g[1] + 0.25f * (g[3] + 0.25f * g[5])),
                      2.0f * (g[1] + 4.0f * (g[3] + 4.0f * g[5]))};
    weigh(even, odd, g[0], g[6], u);
  }
  static CONVLSTM_INLINE void kernel_back(const Vector (&u)[side], Vector (&g)[part]) {
    Vector even[3], odd[3];
    weigh_back(u, even, odd);
    float half = 1, two = 1;
    for (int k = 0; k < part; ++k, half *= 0.5f, two *= 2) {
      const Vector(&of)[3] = k % 2 ? odd : even;
      g[k] = of[0] + (half * of[1] + two * of[2]);
    }
    g[0] += u[0];
    g[6] += u[7];
  }
};

// use(Filtering<out, part>()) of a tile by minimal filtering.
template <class Use>
CONVLSTM_INLINE void with_filtering(const Tile& tile, Use use) {
  if (tile.out == 2 && tile.part == 3)
    use(Filtering<2, 3>());
  else if (tile.part == 7)
    use(Filtering<2, 7>());
  else if (tile.part == 3)
    use(Filtering<4, 3>());
  else
    use(Filtering<4, 5>());
}

// B' d B for `count` channels of one tile from the pixels' addresses, at most as many as a vector has.
template <class T, bool Whole>
CONVLSTM_INLINE void transform_lanes(const float* const* d, int64_t c, int64_t count, float* out,
                                     int64_t stride) {
  Vector t[T::side * T::side], line[T::side], u[T::side];
#pragma GCC unroll 8
  for (int j = 0; j < T::side; ++j) {
#pragma GCC unroll 8
    for (int i = 0; i < T::side; ++i) {
      const float* from = d[T::side * i + j] + c;
      if constexpr (Whole)
        line[i] = at(from);
      else
        line[i] = load_some<float, lanes>(from, count);
    }
    T::inputs(line, t + j, T::side);
  }
#pragma GCC unroll 8
  for (int i = 0; i < T::side; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < T::side; ++j) line[j] = t[T::side * i + j];
    T::inputs(line, u, 1);
#pragma GCC unroll 8
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
template <class T>
void transform_input(const float* const* d, int64_t channels, float* out, int64_t stride) {
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) transform_lanes<T, true>(d, c, lanes, out, stride);
  if (c < channels) transform_lanes<T, false>(d, c, channels - c, out, stride);
}

// A' m A for one vector of columns of a tile: products (positions, columns) to out x out pixels.
template <class T>
CONVLSTM_INLINE void tile_outputs(const float* m, int64_t stride, Vector* y) {
  Vector t[T::out * T::side], line[T::side];
#pragma GCC unroll 8
  for (int j = 0; j < T::side; ++j) {
#pragma GCC unroll 8
    for (int i = 0; i < T::side; ++i) line[i] = at(m + (T::side * i + j) * stride);
    T::outputs(line, t + j, T::side);
  }
#pragma GCC unroll 4
  for (int i = 0; i < T::out; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < T::side; ++j) line[j] = t[T::side * i + j];
    T::outputs(line, y + T::out * i, 1);
  }
}

// G g G' of the kernels (taps, columns) to (positions, columns).
template <class T>
void transform_kernels(const float (&taps)[largest_part * largest_part][columns],
                       float (&u)[most_positions][columns]) {
#pragma omp simd
  for (int j = 0; j < columns; ++j) {
    float t[T::part][T::side], line[T::part], out[T::side];
    for (int y = 0; y < T::part; ++y) {
      for (int x = 0; x < T::part; ++x) line[x] = taps[T::part * y + x][j];
      T::kernel(line, t[y]);
    }
    for (int x = 0; x < T::side; ++x) {
      for (int y = 0; y < T::part; ++y) line[y] = t[y][x];
      T::kernel(line, out);
      for (int y = 0; y < T::side; ++y) u[T::side * y + x][j] = out[y];
    }
  }
}

}  // namespace
}  // namespace convlstm::NATIVE_ISA
