// See tiles.h. Fused gather, multiply, scatter: a tile of output rows stays in registers while it
// meets one kernel offset, a block of rows stays in the first-level cache while it meets all of them,
// and no gathered copy is ever written (the output-stationary dataflow of Tang et al., TorchSparse++,
// MICRO 2023, on a CPU). Nothing of the standard library here: see pairs.cpp.
#include <cpu/tiles.h>

namespace spconv_lite {
namespace NATIVE_ISA {

namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, most_vectors = 4;
constexpr int rows_for(int vectors) { return vectors == 4 ? 6 : vectors == 2 ? 12 : 16; }
#elif defined(__AVX__)
constexpr int vector_bytes = 32, most_vectors = 2;
constexpr int rows_for(int vectors) { return vectors == 2 ? 6 : 12; }
#else
constexpr int vector_bytes = 16, most_vectors = 2;
constexpr int rows_for(int vectors) { return vectors == 2 ? 6 : 12; }
#endif

template <int number>
struct Count {
  static constexpr int value = number;
};

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(vector_bytes), aligned(alignof(T)), may_alias));
  static constexpr int width = vector_bytes / static_cast<int>(sizeof(T));
};

template <class T>
inline typename VectorOf<T>::type load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::type*>(p);
}
template <class T>
inline void store(T* p, typename VectorOf<T>::type v) {
  *reinterpret_cast<typename VectorOf<T>::type*>(p) = v;
}

// sums[out[m]] += x[in[m]] @ weight for `rows` pairs and `vectors` vectors of output channels. The sum of one
// offset starts at zero and is added at the end: its rounding does not grow with the number of offsets.
template <class T, int rows, int vectors>
inline void multiply_tile(const T* x, int64_t x_stride, int64_t x_channels, const int32_t* in,
                          const uint8_t* out, const T* weight, int64_t stride, T* sums) {
  constexpr int width = VectorOf<T>::width;
  typename VectorOf<T>::type sum[rows][vectors];
  const T* from[rows];
  T* to[rows];
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
    from[m] = x + in[m] * x_stride;
    to[m] = sums + out[m] * stride;
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) sum[m][n] = typename VectorOf<T>::type{};
  }
  for (int64_t c = 0; c < x_channels; ++c) {
    typename VectorOf<T>::type w[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) w[n] = load(weight + c * stride + n * width);
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) sum[m][n] += w[n] * from[m][c];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) store(to[m] + n * width, load(to[m] + n * width) + sum[m][n]);
  }
}

// The last 1 to `rows` pairs, in a tile of their own size.
template <class T, int rows, int vectors>
inline void multiply_rest(const Features<T>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                          const T* weight, int64_t stride, T* sums) {
  if constexpr (rows > 0) {
    if (pairs == rows)
      multiply_tile<T, rows, vectors>(f.x, f.x_stride, f.x_channels, in, out, weight, stride, sums);
    else
      multiply_rest<T, rows - 1, vectors>(f, in, out, pairs, weight, stride, sums);
  }
}

template <class T, int vectors>
inline void multiply_columns(const Features<T>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                             const T* weight, int64_t stride, T* sums) {
  constexpr int rows = rows_for(vectors);
  int64_t m = 0;
  for (; m + rows <= pairs; m += rows)
    multiply_tile<T, rows, vectors>(f.x, f.x_stride, f.x_channels, in + m, out + m, weight, stride, sums);
  multiply_rest<T, rows - 1, vectors>(f, in + m, out + m, pairs - m, weight, stride, sums);
}

// Calls body(first column, number of vectors as a type) over `columns`, a multiple of the width.
template <class T, class Body>
inline void by_columns(int64_t columns, Body&& body) {
  constexpr int width = VectorOf<T>::width;
  int64_t n = 0;
  for (; n + most_vectors * width <= columns; n += most_vectors * width) body(n, Count<most_vectors>{});
  for (; n + 2 * width <= columns; n += 2 * width) body(n, Count<2>{});
  for (; n + width <= columns; n += width) body(n, Count<1>{});
}

bool pairs_exist(const BlockMap& map, int64_t begin, int64_t end, int64_t x_rows) {
  uint32_t in = 0;
  uint8_t out = 0;
  for (int64_t p = begin; p < end; ++p) {
    const uint32_t row = static_cast<uint32_t>(map.pair_in[p]);
    in = row > in ? row : in;
    out = map.pair_out[p] > out ? map.pair_out[p] : out;
  }
  return begin == end || (in < x_rows && out < map.rows);
}

template <class T>
inline T total(typename VectorOf<T>::type v) {
  T sum = 0;
  for (int i = 0; i < VectorOf<T>::width; ++i) sum += v[i];
  return sum;
}

// sums[out[m]][y] += x[in[m]] . weight[y] for `pairs` pairs; rows of the weight are along x, y_step apart.
template <class T, int pairs>
inline void multiply_along_x(const Features<T>& f, const int32_t* in, const uint8_t* out, const T* weight,
                             int64_t y_step, int64_t stride, T* sums) {
  constexpr int width = VectorOf<T>::width, columns = 4;
  const T* x[pairs];
  for (int m = 0; m < pairs; ++m) x[m] = f.x + in[m] * f.x_stride;
  for (int64_t n = 0; n < f.y_channels; n += columns) {
    const int count = f.y_channels - n < columns ? static_cast<int>(f.y_channels - n) : columns;
    typename VectorOf<T>::type sum[pairs][columns] = {};
    const T* w[columns];  // the last one again where there are fewer
    for (int i = 0; i < columns; ++i) w[i] = weight + (n + (i < count ? i : count - 1)) * y_step;
    int64_t c = 0;
    for (; c + width <= f.x_channels; c += width)
#pragma GCC unroll 4
      for (int m = 0; m < pairs; ++m)
#pragma GCC unroll 4
        for (int i = 0; i < columns; ++i) sum[m][i] += load(x[m] + c) * load(w[i] + c);
    for (int m = 0; m < pairs; ++m)
      for (int i = 0; i < count; ++i) {
        T rest = total<T>(sum[m][i]);
        for (int64_t d = c; d < f.x_channels; ++d) rest += x[m][d] * w[i][d];
        sums[out[m] * stride + n + i] += rest;
      }
  }
}

// The same for a weight whose rows are along y, x_step apart.
template <class T>
inline void multiply_along_y(const Features<T>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                             const T* weight, int64_t x_step, int64_t stride, T* sums) {
  for (int64_t c = 0; c < f.x_channels; ++c) {
    const T* const w = weight + c * x_step;
    for (int64_t m = 0; m < pairs; ++m) {
      const T x = f.x[in[m] * f.x_stride + c];
      T* const to = sums + out[m] * stride;
      for (int64_t n = 0; n < f.y_channels; ++n) to[n] += x * w[n];
    }
  }
}

template <class T>
inline void multiply_raw(const Features<T>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                         const T* weight, int64_t x_step, int64_t y_step, int64_t stride, T* sums) {
  if (x_step != 1) return multiply_along_y(f, in, out, pairs, weight, x_step, stride, sums);
  int64_t m = 0;
  for (; m + 4 <= pairs; m += 4) multiply_along_x<T, 4>(f, in + m, out + m, weight, y_step, stride, sums);
  for (; m < pairs; ++m) multiply_along_x<T, 1>(f, in + m, out + m, weight, y_step, stride, sums);
}

template <class T>
void pack(const T* raw, int64_t x_channels, int64_t x_step, int64_t y_channels, int64_t y_step, T* packed) {
  const int64_t stride = padded(y_channels);
  for (int64_t n = 0; n < stride; n += pad_to) {  // 16 rows at once: each is read along x
    const int64_t count = y_channels - n < pad_to ? y_channels - n : pad_to;
    const T* const from = raw + n * y_step;
    for (int64_t c = 0; c < x_channels; ++c) {
      T* const to = packed + c * stride + n;
      if (count == pad_to)
        for (int64_t i = 0; i < pad_to; ++i) to[i] = from[c * x_step + i * y_step];
      else
        for (int64_t i = 0; i < pad_to; ++i) to[i] = i < count ? from[c * x_step + i * y_step] : T(0);
    }
  }
}

template <class T>
bool convolve(const BlockMap& map, const Features<T>& f, const Weights<T>& weights, const T* bias, T* sums) {
  if (!pairs_exist(map, map.offset[0], map.offset[map.volume], f.x_rows)) return false;
  const int64_t stride = padded(f.y_channels);
  const bool in_place = stride == f.y_channels && stride == f.y_stride;  // whole vectors, one group
  if (in_place) sums = f.y;
  for (int64_t row = 0; row < map.rows; ++row)
    for (int64_t c = 0; c < stride; ++c) sums[row * stride + c] = bias != nullptr ? bias[c] : T(0);
  for (int64_t k = 0; k < map.volume; ++k) {
    const int64_t begin = map.offset[k], pairs = map.offset[k + 1] - begin;
    if (pairs == 0) continue;
    const T* const w = weights.of[k].packed;
    if (w == nullptr) {
      multiply_raw(f, map.pair_in + begin, map.pair_out + begin, pairs, weights.of[k].raw, weights.x_step,
                   weights.y_step, stride, sums);
      continue;
    }
    by_columns<T>(stride, [&](int64_t n, auto vectors) {
      multiply_columns<T, decltype(vectors)::value>(f, map.pair_in + begin, map.pair_out + begin, pairs,
                                                    w + n, stride, sums + n);
    });
  }
  for (int64_t row = 0; row < map.rows && !in_place; ++row)
    for (int64_t c = 0; c < f.y_channels; ++c) f.y[row * f.y_stride + c] = sums[row * stride + c];
  return true;
}

// sums[c][...] += x[m][c] * y[m][...] for `channels` channels of x from c on.
template <class T, int channels, int vectors>
inline void correlate_tile(const T* const* x, const T* const* y, int64_t pairs, int64_t c, int64_t n, T* sums,
                           int64_t stride) {
  constexpr int width = VectorOf<T>::width;
  typename VectorOf<T>::type sum[channels][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < channels; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[i][v] = typename VectorOf<T>::type{};
  }
  for (int64_t m = 0; m < pairs; ++m) {
    typename VectorOf<T>::type row[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) row[v] = load(y[m] + n + v * width);
#pragma GCC unroll 16
    for (int i = 0; i < channels; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[i][v] += row[v] * x[m][c + i];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < channels; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      T* const to = sums + (c + i) * stride + n + v * width;
      store(to, load(to) + sum[i][v]);
    }
  }
}

// sums += x ⊗ y over the pairs, all channels.
template <class T>
void correlate_rows(const T* const* x, const T* const* y, int64_t pairs, int64_t x_channels, int64_t stride,
                    T* sums) {
  by_columns<T>(stride, [&](int64_t n, auto vectors) {
    constexpr int v = decltype(vectors)::value;
    constexpr int most = rows_for(v);
    int64_t c = 0;
    for (; c + most <= x_channels; c += most) correlate_tile<T, most, v>(x, y, pairs, c, n, sums, stride);
    for (; c + 4 <= x_channels; c += 4) correlate_tile<T, 4, v>(x, y, pairs, c, n, sums, stride);
    for (; c < x_channels; ++c) correlate_tile<T, 1, v>(x, y, pairs, c, n, sums, stride);
  });
}

// Pairs of several blocks are taken together: long sums spend less on loading and storing them.
template <class T>
bool correlate(const BlockMap& map, int64_t blocks, int64_t k, const Features<const T>& f, T* rows, T* sums) {
  const int64_t stride = padded(f.y_channels);
  const T* x[correlated_rows];
  const T* y[correlated_rows];
  int64_t held = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = map.offset[block * map.volume + k], end = map.offset[block * map.volume + k + 1];
    BlockMap part = map;
    part.rows = map.rows - block * block_rows < block_rows ? map.rows - block * block_rows : block_rows;
    if (!pairs_exist(part, begin, end, f.x_rows)) return false;
    for (int64_t p = begin; p < end; ++p) {
      x[held] = f.x + map.pair_in[p] * f.x_stride;
      y[held] = f.y + (block * block_rows + map.pair_out[p]) * f.y_stride;
      if (stride != f.y_channels) {
        T* copy = rows + held * stride;
        for (int64_t c = 0; c < stride; ++c) copy[c] = c < f.y_channels ? y[held][c] : T(0);
        y[held] = copy;
      }
      if (++held < correlated_rows) continue;
      correlate_rows(x, y, held, f.x_channels, stride, sums);
      held = 0;
    }
  }
  correlate_rows(x, y, held, f.x_channels, stride, sums);
  return true;
}

}  // namespace

template <class T>
void pack_weight(const T* raw, int64_t x_channels, int64_t x_step, int64_t y_channels, int64_t y_step,
                 T* packed) {
  pack(raw, x_channels, x_step, y_channels, y_step, packed);
}

template <class T>
bool convolve_block(const BlockMap& map, const Features<T>& f, const Weights<T>& weights, const T* bias,
                    T* sums) {
  return convolve(map, f, weights, bias, sums);
}

template <class T>
bool correlate_blocks(const BlockMap& map, int64_t blocks, int64_t k, const Features<const T>& f, T* rows,
                      T* sums) {
  return correlate(map, blocks, k, f, rows, sums);
}

template void pack_weight(const float*, int64_t, int64_t, int64_t, int64_t, float*);
template void pack_weight(const double*, int64_t, int64_t, int64_t, int64_t, double*);
template bool convolve_block(const BlockMap&, const Features<float>&, const Weights<float>&, const float*,
                             float*);
template bool convolve_block(const BlockMap&, const Features<double>&, const Weights<double>&, const double*,
                             double*);
template bool correlate_blocks(const BlockMap&, int64_t, int64_t, const Features<const float>&, float*,
                               float*);
template bool correlate_blocks(const BlockMap&, int64_t, int64_t, const Features<const double>&, double*,
                               double*);

}  // namespace NATIVE_ISA
}  // namespace spconv_lite
