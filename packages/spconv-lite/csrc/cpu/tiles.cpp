// See tiles.h. Fused gather, multiply, scatter: a tile of output rows stays in registers while it
// meets one kernel offset, a block of rows stays in the first-level cache while it meets all of them,
// and no gathered copy is ever written (the output-stationary dataflow of Tang et al., TorchSparse++,
// MICRO 2023, on a CPU). Nothing of the standard library here: see pairs.cpp.
#include <cpu/tile_parts.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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
inline void multiply_tile(const Features<T>& f, const int32_t* in, const uint8_t* out, const T* weight,
                          int64_t weight_stride, T* sums, int64_t stride) {
  constexpr int width = VectorOf<T>::width;
  typename VectorOf<T>::type sum[rows][vectors];
  const T* from[rows];
  T* to[rows];
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
    from[m] = f.x + in[m] * f.x_stride;
    to[m] = sums + out[m] * stride;
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) sum[m][n] = typename VectorOf<T>::type{};
  }
  const int64_t x_channels = f.x_channels;
  for (int64_t c = 0; c < x_channels; ++c) {
    typename VectorOf<T>::type w[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) w[n] = load(weight + c * weight_stride + n * width);
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
                          const T* weight, int64_t weight_stride, T* sums, int64_t stride) {
  if constexpr (rows > 0) {
    if (pairs == rows)
      multiply_tile<T, rows, vectors>(f, in, out, weight, weight_stride, sums, stride);
    else
      multiply_rest<T, rows - 1, vectors>(f, in, out, pairs, weight, weight_stride, sums, stride);
  }
}

template <class T, int vectors>
inline void multiply_columns(const Features<T>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                             const int32_t* end, const T* weight, int64_t weight_stride, T* sums,
                             int64_t stride) {
  constexpr int rows = rows_for(vectors);
  int64_t m = 0;
  for (; m + rows <= pairs; m += rows) {
    ask_for_rows<rows>(f, in + m + 2 * rows, end);
    multiply_tile<T, rows, vectors>(f, in + m, out + m, weight, weight_stride, sums, stride);
  }
  multiply_rest<T, rows - 1, vectors>(f, in + m, out + m, pairs - m, weight, weight_stride, sums, stride);
}

// Calls body(first column, number of vectors as a type) over `columns`, a multiple of the width.
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

template <class T>
inline void multiply_few(const Features<T>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                         const T* weight, int64_t y_step, int64_t stride, T* sums) {
  int64_t m = 0;
  for (; m + 4 <= pairs; m += 4) multiply_along_x<T, 4>(f, in + m, out + m, weight, y_step, stride, sums);
  for (; m < pairs; ++m) multiply_along_x<T, 1>(f, in + m, out + m, weight, y_step, stride, sums);
}

// to[c * to_stride + i] = from[i * from_stride + c] for 16 x 16 values.
template <class T>
inline void turn_square(const T* from, int64_t from_stride, T* to, int64_t to_stride) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    __m512 r[16], t[16];  // maskz: g++ 12 calls what the plain forms pass uninitialised
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_ps(from + i * from_stride);
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_maskz_unpacklo_ps(0xFFFF, r[i], r[i + 1]);
      t[i + 1] = _mm512_maskz_unpackhi_ps(0xFFFF, r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_maskz_shuffle_ps(0xFFFF, t[i], t[i + 2], 0x44);
      r[i + 1] = _mm512_maskz_shuffle_ps(0xFFFF, t[i], t[i + 2], 0xEE);
      r[i + 2] = _mm512_maskz_shuffle_ps(0xFFFF, t[i + 1], t[i + 3], 0x44);
      r[i + 3] = _mm512_maskz_shuffle_ps(0xFFFF, t[i + 1], t[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {  // each now holds column i of a 4 x 4 square, in every lane
      const __m512 low = _mm512_maskz_shuffle_f32x4(0xFFFF, r[i], r[i + 4], 0x88);
      const __m512 high = _mm512_maskz_shuffle_f32x4(0xFFFF, r[i + 8], r[i + 12], 0x88);
      const __m512 low_odd = _mm512_maskz_shuffle_f32x4(0xFFFF, r[i], r[i + 4], 0xDD);
      const __m512 high_odd = _mm512_maskz_shuffle_f32x4(0xFFFF, r[i + 8], r[i + 12], 0xDD);
      _mm512_storeu_ps(to + i * to_stride, _mm512_maskz_shuffle_f32x4(0xFFFF, low, high, 0x88));
      _mm512_storeu_ps(to + (i + 4) * to_stride, _mm512_maskz_shuffle_f32x4(0xFFFF, low_odd, high_odd, 0x88));
      _mm512_storeu_ps(to + (i + 8) * to_stride, _mm512_maskz_shuffle_f32x4(0xFFFF, low, high, 0xDD));
      _mm512_storeu_ps(to + (i + 12) * to_stride,
                       _mm512_maskz_shuffle_f32x4(0xFFFF, low_odd, high_odd, 0xDD));
    }
    return;
  }
#endif
  for (int c = 0; c < 16; ++c)
    for (int i = 0; i < 16; ++i) to[c * to_stride + i] = from[i * from_stride + c];
}

// Packed weights lie group by group of the columns that a tile takes at once: what it reads is one run of
// memory. (Rows of a wider panel, of which a tile takes a part, would meet in few sets of the cache.)
template <class T>
constexpr int64_t group_columns = most_vectors * VectorOf<T>::width;

// The weights of an offset as tiles read them: those of input channel c that a tile from column n on meets
// begin at of(n) + c * step(n).
template <class T>
struct Weights {
  const T* at;
  int64_t columns, x_channels, raw_step;  // raw_step: 0 for packed ones

  const T* of(int64_t n) const {
    const int64_t first = n / group_columns<T> * group_columns<T>;
    return raw_step != 0 ? at + n : at + first * x_channels + (n - first);
  }
  int64_t step(int64_t n) const {
    const int64_t left = columns - n / group_columns<T> * group_columns<T>;
    return raw_step != 0 ? raw_step : left < group_columns<T> ? left : group_columns<T>;
  }
};

template <class T>
void pack(const T* raw, int64_t x_channels, int64_t x_step, int64_t columns, int64_t y_step, T* packed) {
  const int64_t stride = padded(columns);
  constexpr int64_t piece = group_columns<T> < pad_to ? group_columns<T> : pad_to;
  const Weights<T> to{packed, stride, x_channels, 0};
  for (int64_t n = 0; n < stride; n += piece) {
    const int64_t count = columns - n < piece ? columns - n : piece, step = to.step(n);
    const T* const from = raw + n * y_step;
    T* const at = packed + (to.of(n) - packed);
    int64_t c = 0;
    if (count == pad_to && x_step == 1)
      for (; c + pad_to <= x_channels; c += pad_to) turn_square(from + c, y_step, at + c * step, step);
    for (; c < x_channels; ++c)
      for (int64_t i = 0; i < piece; ++i) at[c * step + i] = i < count ? from[c * x_step + i * y_step] : T(0);
  }
}

constexpr int64_t rows_ahead = 32;  // rows in no order are asked for early

// Pairs for which packing a panel costs more than it saves.
constexpr int64_t few_pairs = 24;

// The pairs of one block and offset; those of the block go on up to `end`.
template <class T>
inline void multiply_pairs(const Features<T>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                           const int32_t* end, const Weights<T>& weights, T* sums, int64_t stride) {
  by_columns<most_vectors, VectorOf<T>::width>(stride, [&](int64_t n, auto vectors) {
    multiply_columns<T, decltype(vectors)::value>(f, in, out, pairs, end, weights.of(n), weights.step(n),
                                                  sums + n, stride);
  });
}

// Past the caches where it is asked to: a whole line written to a row in no order need not be read before.
template <class T>
inline void store_past(T* p, typename VectorOf<T>::type v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#else
  store(p, v);
#endif
}

// The rows of y from their sums, which may be y itself.
template <class T, bool past>
void end_rows(const BlockMap& map, const Features<T>& f, const T* sums, int64_t stride, const Ends<T>& ends) {
  using Vector = typename VectorOf<T>::type;
  constexpr int width = VectorOf<T>::width;
  for (int64_t row = 0; row < map.rows; ++row) {
    T* const y = f.y + row_at(map, row) * f.y_stride;
    for (int64_t n = 0; n < f.y_channels; n += width) {
      Vector v = load(sums + row * stride + n);
      if (ends.scale != nullptr) v = v * load(ends.scale + n) + load(ends.bias + n);
      if (ends.rectified) v = v < Vector{} ? Vector{} : v;
      if (past)
        store_past(y + n, v);
      else if (n + width <= f.y_channels)
        store(y + n, v);
      else
        for (int64_t c = n; c < f.y_channels; ++c) y[c] = v[c - n];
    }
  }
#if defined(__AVX512F__)
  if (past) _mm_sfence();
#endif
}

template <class T>
void end_rows(const BlockMap& map, const Features<T>& f, const T* sums, int64_t stride, const Ends<T>& ends) {
  const bool whole_lines = reinterpret_cast<uintptr_t>(f.y) % 64 == 0 && f.y_channels * sizeof(T) % 64 == 0 &&
                           f.y_stride * sizeof(T) % 64 == 0;
  if (map.order != nullptr && whole_lines && vector_bytes == 64)
    end_rows<T, true>(map, f, sums, stride, ends);
  else
    end_rows<T, false>(map, f, sums, stride, ends);
}

template <class T>
bool convolve(const BlockMap& map, int64_t blocks, const Features<T>& f, const PanelWeights<T>& weights,
              const Ends<T>& ends, T* panel, T* sums) {
  const int64_t stride = padded(f.y_channels);
  for (int64_t block = 0; block < blocks; ++block) {
    BlockMap part = map;
    part.rows = map.rows - block * block_rows < block_rows ? map.rows - block * block_rows : block_rows;
    const int64_t* const offset = map.offset + block * map.volume;
    if (!pairs_exist(part, part.rows, offset[0], offset[map.volume], f.x_rows)) return false;
  }
  const T* const start = ends.scale == nullptr ? ends.bias : nullptr;
  const bool in_place = stride == f.y_channels && stride == f.y_stride && map.order == nullptr;
  if (in_place) sums = f.y + map.first * stride;  // one panel of whole vectors
  for (int64_t row = 0; row < map.rows; ++row)
    for (int64_t c = 0; c < stride; ++c) sums[row * stride + c] = start != nullptr ? start[c] : T(0);
  for (int64_t k = 0; k < map.volume; ++k) {
    int64_t pairs = 0;
    for (int64_t block = 0; block < blocks; ++block)
      pairs += map.offset[block * map.volume + k + 1] - map.offset[block * map.volume + k];
    if (pairs == 0) continue;
    const T* const raw = weights.raw + k * weights.k_step;
    const bool packed = weights.packed != nullptr;
    Weights<T> from{packed ? weights.packed + k * weights.packed_step : panel, stride, f.x_channels, 0};
    bool few = false;
    if (!packed) {
      few = pairs <= few_pairs && weights.x_step == 1;
      if (pairs <= few_pairs && weights.y_step == 1 && stride == f.y_channels) {  // as good as packed
        from.at = raw;
        from.raw_step = weights.x_step;
      } else if (!few) {
        pack(raw, f.x_channels, weights.x_step, f.y_channels, weights.y_step, panel);
      }
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = map.offset[block * map.volume + k];
      const int64_t count = map.offset[block * map.volume + k + 1] - begin;
      const int32_t* const end = map.pair_in + map.offset[(block + 1) * map.volume];
      T* const to = sums + block * block_rows * stride;
      if (few)
        multiply_few(f, map.pair_in + begin, map.pair_out + begin, count, raw, weights.y_step, stride, to);
      else
        multiply_pairs(f, map.pair_in + begin, map.pair_out + begin, count, end, from, to, stride);
    }
  }
  if (!in_place || ends.scale != nullptr || ends.rectified) end_rows(map, f, sums, stride, ends);
  return true;
}

// sums[c][...] += x[m][c] * y[m][...] for `channels` channels of x from c on.
template <class T, int channels, int vectors>
inline void correlate_tile(const T* const* x, const T* const* y, int64_t pairs, int64_t c, int64_t n,
                           const PairSums<T>& to) {
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
      T* const at = to.sums + (c + i) * to.stride + n + v * width;
      store(at, to.first ? sum[i][v] : load(at) + sum[i][v]);
    }
  }
}

// sums += x ⊗ y over the pairs, all channels.
template <class T>
void correlate_rows(const T* const* x, const T* const* y, int64_t pairs, int64_t x_channels, int64_t columns,
                    PairSums<T>* to) {
  by_columns<most_vectors, VectorOf<T>::width>(columns, [&](int64_t n, auto vectors) {
    constexpr int v = decltype(vectors)::value;
    constexpr int most = rows_for(v);
    int64_t c = 0;
    for (; c + most <= x_channels; c += most) correlate_tile<T, most, v>(x, y, pairs, c, n, *to);
    for (; c + 4 <= x_channels; c += 4) correlate_tile<T, 4, v>(x, y, pairs, c, n, *to);
    for (; c < x_channels; ++c) correlate_tile<T, 1, v>(x, y, pairs, c, n, *to);
  });
  to->first = false;
}

// Pairs of several blocks are taken together: long sums spend less on loading and storing them.
template <class T>
bool correlate(const BlockMap& map, int64_t blocks, int64_t k, bool turned, const Features<const T>& f,
               T* rows, PairSums<T>* to) {
  const int64_t columns = padded(f.y_channels);
  const T* x[correlated_rows];
  const T* y[correlated_rows];
  int64_t held = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = map.offset[block * map.volume + k], end = map.offset[block * map.volume + k + 1];
    BlockMap part = map;
    part.rows = map.rows - block * block_rows < block_rows ? map.rows - block * block_rows : block_rows;
    if (!pairs_exist(part, part.rows, begin, end, f.x_rows)) return false;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t in = map.pair_in[p], out = row_at(map, block * block_rows + map.pair_out[p]);
      x[held] = f.x + (turned ? out : in) * f.x_stride;
      y[held] = f.y + (turned ? in : out) * f.y_stride;
      ask_for(x[held], f.x_channels);
      ask_for(y[held], f.y_channels);
      if (columns != f.y_channels) {
        T* copy = rows + held * columns;
        for (int64_t c = 0; c < columns; ++c) copy[c] = c < f.y_channels ? y[held][c] : T(0);
        y[held] = copy;
      }
      if (++held < correlated_rows) continue;
      correlate_rows(x, y, held, f.x_channels, columns, to);
      held = 0;
    }
  }
  if (held > 0) correlate_rows(x, y, held, f.x_channels, columns, to);
  return true;
}

}  // namespace

void gather_rows(const char* from, const int32_t* order, int64_t begin, int64_t end, int64_t bytes,
                 char* to) {
  constexpr int64_t line = 64, piece = 16;
  for (int64_t i = begin; i < end; ++i) {
    const char* const later = from + order[i + rows_ahead < end ? i + rows_ahead : end - 1] * bytes;
    const char* const row = from + order[i] * bytes;
    for (int64_t b = 0; b < bytes; b += line) __builtin_prefetch(later + b);
    int64_t b = 0;
    for (; b + vector_bytes <= bytes; b += vector_bytes) store(to + i * bytes + b, load(row + b));
    for (; b + piece <= bytes; b += piece) __builtin_memcpy(to + i * bytes + b, row + b, piece);
    for (; b + 4 <= bytes; b += 4) __builtin_memcpy(to + i * bytes + b, row + b, 4);
    for (; b < bytes; ++b) to[i * bytes + b] = row[b];
  }
}

void widen_rows(const Bfloat16* from, const int32_t* order, int64_t begin, int64_t end, int64_t channels,
                float* to) {
  for (int64_t row = begin; row < end; ++row) {
    const Bfloat16* const at = from + (order != nullptr ? order[row] : row) * channels;
    if (order != nullptr)
      ask_for(from + order[row + rows_ahead < end ? row + rows_ahead : end - 1] * channels, channels);
    for (int64_t c = 0; c < channels; ++c) {
      const uint32_t bits = static_cast<uint32_t>(at[c].bits) << 16;
      __builtin_memcpy(to + row * channels + c, &bits, sizeof bits);
    }
  }
}

void round_rows(const float* from, int64_t channels, const BlockMap& map, Bfloat16* to, int64_t to_stride) {
  for (int64_t row = 0; row < map.rows; ++row) {
    Bfloat16* const at = to + row_at(map, row) * to_stride;
    for (int64_t c = 0; c < channels; ++c) {
      uint32_t bits;
      __builtin_memcpy(&bits, from + row * channels + c, sizeof bits);
      const bool number = (bits & 0x7FFFFFFFu) <= 0x7F800000u;
      at[c].bits = number ? static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16) : 0x7FC0;
    }
  }
}

template <class T>
void pack_panel(const T* raw, int64_t x_channels, int64_t x_step, int64_t columns, int64_t y_step,
                T* packed) {
  pack(raw, x_channels, x_step, columns, y_step, packed);
}

template <class T>
bool convolve_panel(const BlockMap& map, int64_t blocks, const Features<T>& f, const PanelWeights<T>& weights,
                    const Ends<T>& ends, T* panel, T* sums) {
  return convolve(map, blocks, f, weights, ends, panel, sums);
}

template <class T>
bool correlate_blocks(const BlockMap& map, int64_t blocks, int64_t k, bool turned, const Features<const T>& f,
                      T* rows, PairSums<T>* to) {
  return correlate(map, blocks, k, turned, f, rows, to);
}

#define SPCONV_LITE_TILES(T)                                                                            \
  template void pack_panel(const T*, int64_t, int64_t, int64_t, int64_t, T*);                           \
  template bool convolve_panel(const BlockMap&, int64_t, const Features<T>&, const PanelWeights<T>&,    \
                               const Ends<T>&, T*, T*);                                                 \
  template bool correlate_blocks(const BlockMap&, int64_t, int64_t, bool, const Features<const T>&, T*, \
                                 PairSums<T>*);
SPCONV_LITE_TILES(float)
SPCONV_LITE_TILES(double)
#undef SPCONV_LITE_TILES

}  // namespace NATIVE_ISA
}  // namespace spconv_lite
