// See narrow.h and tiles.h. Compiled once, for x86-64-v4 with AVX512-BF16; nothing of the standard library
// here: see pairs.cpp. A vector holds 16 output channels, each with its products of two input channels.
#include <cpu/narrow.h>
#include <cpu/tile_parts.h>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace spconv_lite {
namespace narrow {

#if defined(__AVX512BF16__)
namespace {

constexpr int most_vectors = 4, width = 16;
constexpr int64_t pairs_ahead = 16;  // their rows are asked for early
constexpr int rows_for(int vectors) { return vectors == 4 ? 6 : vectors == 2 ? 12 : 16; }

inline __m512bh pair_of(const Bfloat16* at) {  // two values, in every lane
  uint32_t both;
  __builtin_memcpy(&both, at, sizeof both);
  return (__m512bh)_mm512_set1_epi32(static_cast<int>(both));
}
inline __m512bh load(const Bfloat16* at) { return (__m512bh)_mm512_loadu_si512(at); }

inline void round_vector(__m512 v, Bfloat16* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_maskz_cvtneps_pbh(0xFFFF, v));
}

// low and high interleaved: 16 pairs.
inline __m512i interleave(__m256i low, __m256i high) {
  const __m512i wide = _mm512_maskz_slli_epi32(0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, high), 16);
  return _mm512_maskz_or_epi32(0xFFFF, wide, _mm512_maskz_cvtepu16_epi32(0xFFFF, low));
}
inline __m256i load_half(const Bfloat16* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}

// As multiply_tile in tiles.cpp.
template <int rows, int vectors>
inline void multiply_tile(const Features<Bfloat16>& f, const int32_t* in, const uint8_t* out,
                          const Bfloat16* weight, int64_t stride, float* sums) {
  __m512 sum[rows][vectors];
  const Bfloat16* from[rows];
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
    from[m] = f.x + in[m] * f.x_stride;
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) sum[m][n] = _mm512_setzero_ps();
  }
  for (int64_t c = 0; c < f.x_channels; c += 2) {
    __m512bh w[vectors];
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) w[n] = load(weight + c * stride + n * 2 * width);
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
      const __m512bh x = pair_of(from[m] + c);
#pragma GCC unroll 4
      for (int n = 0; n < vectors; ++n) sum[m][n] = _mm512_dpbf16_ps(sum[m][n], w[n], x);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < vectors; ++n) {
      float* const to = sums + out[m] * stride + n * width;
      _mm512_storeu_ps(to, _mm512_loadu_ps(to) + sum[m][n]);
    }
  }
}

template <int rows, int vectors>
inline void multiply_rest(const Features<Bfloat16>& f, const int32_t* in, const uint8_t* out, int64_t pairs,
                          const Bfloat16* weight, int64_t stride, float* sums) {
  if constexpr (rows > 0) {
    if (pairs == rows)
      multiply_tile<rows, vectors>(f, in, out, weight, stride, sums);
    else
      multiply_rest<rows - 1, vectors>(f, in, out, pairs, weight, stride, sums);
  }
}

template <int vectors>
inline void multiply_columns(const Features<Bfloat16>& f, const int32_t* in, const uint8_t* out,
                             int64_t pairs, const int32_t* end, const Bfloat16* weight, int64_t stride,
                             float* sums) {
  constexpr int rows = rows_for(vectors);
  int64_t m = 0;
  for (; m + rows <= pairs; m += rows) {
    ask_for_rows<rows>(f, in + m + 2 * rows, end);
    multiply_tile<rows, vectors>(f, in + m, out + m, weight, stride, sums);
  }
  multiply_rest<rows - 1, vectors>(f, in + m, out + m, pairs - m, weight, stride, sums);
}

int64_t rows_of(const BlockMap& map, int64_t block) {
  const int64_t left = map.rows - block * block_rows;
  return left < block_rows ? left : block_rows;
}

// sums[c + i][n...] += the products of pairs (of pairs), both sides interleaved.
template <int channels, int vectors>
inline void correlate_tile(const Bfloat16* x, const Bfloat16* y, int64_t pairs, int64_t x_channels,
                           int64_t columns, int64_t c, int64_t n, const PairSums<float>& to) {
  __m512 sum[channels][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < channels; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[i][v] = _mm512_setzero_ps();
  }
  for (int64_t m = 0; m < pairs; m += 2) {
    __m512bh row[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) row[v] = load(y + m * columns + (n + v * width) * 2);
#pragma GCC unroll 16
    for (int i = 0; i < channels; ++i) {
      const __m512bh value = pair_of(x + m * x_channels + (c + i) * 2);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], row[v], value);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < channels; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      float* const at = to.sums + (c + i) * to.stride + n + v * width;
      _mm512_storeu_ps(at, to.first ? sum[i][v] : _mm512_loadu_ps(at) + sum[i][v]);
    }
  }
}

void correlate_rows(const Bfloat16* x, const Bfloat16* y, int64_t pairs, int64_t x_channels, int64_t columns,
                    PairSums<float>* to) {
  by_columns<most_vectors, width>(columns, [&](int64_t n, auto vectors) {
    constexpr int v = decltype(vectors)::value;
    constexpr int most = rows_for(v);
    int64_t c = 0;
    for (; c + most <= x_channels; c += most)
      correlate_tile<most, v>(x, y, pairs, x_channels, columns, c, n, *to);
    for (; c < x_channels; ++c) correlate_tile<1, v>(x, y, pairs, x_channels, columns, c, n, *to);
  });
  to->first = false;
}

// to[i][0..1] = the i-th values of two rows (the second may be absent), i up to `wanted`.
void interleave_rows(const Bfloat16* first, const Bfloat16* second, int64_t channels, int64_t wanted,
                     Bfloat16* to) {
  int64_t c = 0;
  for (; c + width <= channels; c += width) {
    const __m256i other = second != nullptr ? load_half(second + c) : _mm256_setzero_si256();
    _mm512_storeu_si512(to + 2 * c, interleave(load_half(first + c), other));
  }
  for (; c < wanted; ++c) {
    to[2 * c] = c < channels ? first[c] : Bfloat16{0};
    to[2 * c + 1] = c < channels && second != nullptr ? second[c] : Bfloat16{0};
  }
}

}  // namespace

bool compiled() { return true; }

void pack_panel(const Bfloat16* raw, int64_t x_channels, int64_t x_step, int64_t columns, int64_t y_step,
                Bfloat16* packed) {
  const int64_t stride = padded(columns);
  for (int64_t c = 0; c < x_channels; c += 2) {
    const Bfloat16* const from = raw + c * x_step;
    Bfloat16* const to = packed + c * stride;
    if (y_step == 1) {
      interleave_rows(from, from + x_step, columns, stride, to);
      continue;
    }
    for (int64_t n = 0; n < stride; ++n) {
      to[2 * n] = n < columns ? from[n * y_step] : Bfloat16{0};
      to[2 * n + 1] = n < columns ? from[n * y_step + x_step] : Bfloat16{0};
    }
  }
}

bool convolve_panel(const BlockMap& map, int64_t blocks, const Features<Bfloat16>& f,
                    const PanelWeights<Bfloat16>& weights, const Ends<float>& ends, Bfloat16* panel,
                    float* sums) {
  const float* const start = ends.scale == nullptr ? ends.bias : nullptr;
  const int64_t stride = padded(f.y_channels);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t* const offset = map.offset + block * map.volume;
    if (!pairs_exist(map, rows_of(map, block), offset[0], offset[map.volume], f.x_rows)) return false;
  }
  for (int64_t row = 0; row < map.rows; ++row)
    for (int64_t c = 0; c < stride; ++c) sums[row * stride + c] = start != nullptr ? start[c] : 0.0f;
  for (int64_t k = 0; k < map.volume; ++k) {
    bool ready = weights.packed != nullptr;
    const Bfloat16* from = ready ? weights.packed + k * weights.packed_step : nullptr;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = map.offset[block * map.volume + k];
      const int64_t pairs = map.offset[block * map.volume + k + 1] - begin;
      if (pairs == 0) continue;
      if (!ready) {
        pack_panel(weights.raw + k * weights.k_step, f.x_channels, weights.x_step, f.y_channels,
                   weights.y_step, panel);
        from = panel;
        ready = true;
      }
      const int32_t* const end = map.pair_in + map.offset[(block + 1) * map.volume];
      float* const to = sums + block * block_rows * stride;
      by_columns<most_vectors, width>(stride, [&](int64_t n, auto vectors) {
        multiply_columns<decltype(vectors)::value>(f, map.pair_in + begin, map.pair_out + begin, pairs, end,
                                                   from + 2 * n, stride, to + n);
      });
    }
  }
  for (int64_t row = 0; row < map.rows; ++row) {
    float* const sum = sums + row * stride;
    for (int64_t c = 0; c < stride && ends.scale != nullptr; ++c)
      sum[c] = sum[c] * ends.scale[c] + ends.bias[c];
    for (int64_t c = 0; c < stride && ends.rectified; ++c) sum[c] = sum[c] < 0 ? 0 : sum[c];
    round_to(sum, f.y_channels, f.y + row_at(map, row) * f.y_stride);
  }
  return true;
}

bool correlate_blocks(const BlockMap& map, int64_t blocks, int64_t k, bool turned,
                      const Features<const Bfloat16>& f, Bfloat16* rows, PairSums<float>* to) {
  const int64_t columns = padded(f.y_channels);
  Bfloat16* const x = rows;
  Bfloat16* const y = rows + correlated_rows * f.x_channels;
  const Bfloat16 *waiting_x = nullptr, *waiting_y = nullptr;  // the first of two pairs
  int64_t held = 0;
  const auto put = [&](const Bfloat16* second_x, const Bfloat16* second_y) {
    interleave_rows(waiting_x, second_x, f.x_channels, f.x_channels, x + held * f.x_channels);
    interleave_rows(waiting_y, second_y, f.y_channels, columns, y + held * columns);
    held += 2;
    waiting_x = waiting_y = nullptr;
  };
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = map.offset[block * map.volume + k], end = map.offset[block * map.volume + k + 1];
    if (!pairs_exist(map, rows_of(map, block), begin, end, f.x_rows)) return false;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t in = map.pair_in[p], out = row_at(map, block * block_rows + map.pair_out[p]);
      const Bfloat16* const at_x = f.x + (turned ? out : in) * f.x_stride;
      const Bfloat16* const at_y = f.y + (turned ? in : out) * f.y_stride;
      if (p + pairs_ahead < end) {
        const int64_t soon = map.pair_in[p + pairs_ahead];
        const int64_t to_be = row_at(map, block * block_rows + map.pair_out[p + pairs_ahead]);
        ask_for(f.x + (turned ? to_be : soon) * f.x_stride, f.x_channels);
        ask_for(f.y + (turned ? soon : to_be) * f.y_stride, f.y_channels);
      }
      if (waiting_x == nullptr) {
        waiting_x = at_x;
        waiting_y = at_y;
        continue;
      }
      put(at_x, at_y);
      if (held < correlated_rows) continue;
      correlate_rows(x, y, held, f.x_channels, columns, to);
      held = 0;
    }
  }
  if (waiting_x != nullptr) put(nullptr, nullptr);
  if (held > 0) correlate_rows(x, y, held, f.x_channels, columns, to);
  return true;
}

void round_to(const float* from, int64_t count, Bfloat16* to) {
  int64_t i = 0;
  for (; i + width <= count; i += width) round_vector(_mm512_loadu_ps(from + i), to + i);
  if (i == count) return;
  Bfloat16 rest[width];
  round_vector(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << (count - i)) - 1), from + i), rest);
  for (int64_t j = i; j < count; ++j) to[j] = rest[j - i];
}

#else  // a processor or compiler without the instructions: available() says no, nobody calls these

bool compiled() { return false; }
void pack_panel(const Bfloat16*, int64_t, int64_t, int64_t, int64_t, Bfloat16*) {}
bool convolve_panel(const BlockMap&, int64_t, const Features<Bfloat16>&, const PanelWeights<Bfloat16>&,
                    const Ends<float>&, Bfloat16*, float*) {
  return false;
}
bool correlate_blocks(const BlockMap&, int64_t, int64_t, bool, const Features<const Bfloat16>&, Bfloat16*,
                      PairSums<float>*) {
  return false;
}
void round_to(const float*, int64_t, Bfloat16*) {}

#endif

}  // namespace narrow
}  // namespace spconv_lite
