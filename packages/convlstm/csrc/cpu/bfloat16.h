// Blocks of blocks.h for bfloat16 inputs, on processors with AVX512-BF16. A bfloat16 is the upper half of a
// float. Products are summed in float, two neighbouring rows of the weights at a time: the weights are
// packed as (rows / 2, columns, 2).
#pragma once

#include <cstring>

#include "cpu/blocks.h"

#if defined(__AVX512F__) && (defined(__GNUC__) || defined(__clang__))
#define CONVLSTM_BFLOAT16 1
#include <immintrin.h>
#endif

namespace convlstm::NATIVE_ISA {
namespace {

// To the nearest, ties to even.
inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

#if CONVLSTM_BFLOAT16

__attribute__((target("avx512bf16"))) inline void store_rounded(uint16_t* out, __mmask16 mask, __m512 x) {
  const __m256bh rounded = _mm512_cvtneps_pbh(x);
  __m256i bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  _mm256_mask_storeu_epi16(out, mask, bits);
}

__attribute__((target("avx512bf16"))) inline void transform_input(const uint16_t* const d[16],
                                                                  int64_t channels, uint16_t* out,
                                                                  int64_t stride) {
  for (int64_t c = 0; c < channels; c += lanes) {
    const __mmask16 mask = static_cast<__mmask16>(channels - c >= lanes ? 0xffff : (1 << (channels - c)) - 1);
    auto load = [&](int k) __attribute__((target("avx512bf16"), always_inline)) {
      const __m256i bits = _mm256_maskz_loadu_epi16(mask, d[k] + c);
      // (the maskz forms: g++ 12 warns of an uninitialised value inside the others)
      return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(mask, _mm512_maskz_cvtepu16_epi32(mask, bits), 16));
    };
    __m512 t[16];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512 a = load(j), b = load(4 + j), e = load(8 + j), f = load(12 + j);
      t[j] = a - e;
      t[4 + j] = b + e;
      t[8 + j] = e - b;
      t[12 + j] = b - f;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512 a = t[4 * i], b = t[4 * i + 1], e = t[4 * i + 2], f = t[4 * i + 3];
      store_rounded(out + (4 * i) * stride + c, mask, a - e);
      store_rounded(out + (4 * i + 1) * stride + c, mask, b + e);
      store_rounded(out + (4 * i + 2) * stride + c, mask, e - b);
      store_rounded(out + (4 * i + 3) * stride + c, mask, b - f);
    }
  }
}

// As multiply for floats; `channels` is even.
template <int Vectors = 2>
__attribute__((target("avx512bf16"))) void multiply(const uint16_t* inputs, int64_t channels,
                                                    const uint16_t* weights, float* products, int64_t width) {
  __m512 a[tile_rows], b[tile_rows];
  for (int r = 0; r < tile_rows; ++r) a[r] = b[r] = _mm512_setzero_ps();
  for (int64_t c = 0; c < channels; c += 2, weights += 2 * columns) {
    const __m512bh low = (__m512bh)_mm512_loadu_si512(weights);
    const __m512bh high = (__m512bh)_mm512_loadu_si512(weights + 2 * lanes);
#pragma GCC unroll 12
    for (int r = 0; r < tile_rows; ++r) {
      int pair;
      std::memcpy(&pair, inputs + r * channels + c, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      a[r] = _mm512_dpbf16_ps(a[r], x, low);
      if constexpr (Vectors == 2) b[r] = _mm512_dpbf16_ps(b[r], x, high);
    }
  }
  for (int r = 0; r < tile_rows; ++r) {
    _mm512_storeu_ps(products + r * width, a[r]);
    if constexpr (Vectors == 2) _mm512_storeu_ps(products + r * width + lanes, b[r]);
  }
}

// Sixteen floats for core/gates.h, with activations that err by less than a tenth of bfloat16's rounding.
struct Sixteen {
  __m512 v;
  Sixteen() = default;
  Sixteen(__m512 x) : v(x) {}
  explicit Sixteen(double x) : v(_mm512_set1_ps(static_cast<float>(x))) {}
};

inline Sixteen operator+(Sixteen a, Sixteen b) { return a.v + b.v; }
inline Sixteen operator-(Sixteen a, Sixteen b) { return a.v - b.v; }
inline Sixteen operator*(Sixteen a, Sixteen b) { return a.v * b.v; }
inline Sixteen operator/(Sixteen a, Sixteen b) { return a.v / b.v; }

// Not a number passes through: these instructions give their second operand then.
inline Sixteen clamped(Sixteen x, Sixteen low, Sixteen high) {
  return _mm512_mask_min_ps(x.v, 0xffff, high.v, _mm512_mask_max_ps(x.v, 0xffff, low.v, x.v));
}
inline Sixteen at_least_zero(Sixteen x) { return _mm512_mask_max_ps(x.v, 0xffff, _mm512_setzero_ps(), x.v); }

// 2^z = scale * (1 + part), |z| below 120: the Taylor series errs by less than 1.2e-4 relative to part.
inline void exp2_parts(Sixteen z, Sixteen& scale, Sixteen& part) {
  const __m512 n = _mm512_mask_roundscale_ps(z.v, 0xffff, z.v, 0), f = z.v - n;
  const Sixteen r(f);
  const Sixteen q = ((Sixteen(0.00961813) * r + Sixteen(0.05550411)) * r + Sixteen(0.24022651)) * r;
  part = (q + Sixteen(0.69314718)) * r;
  scale = _mm512_mask_scalef_ps(n, 0xffff, Sixteen(1).v, n);
}

inline Sixteen reciprocal(Sixteen x) { return _mm512_maskz_rcp14_ps(0xffff, x.v); }

inline Sixteen sigmoid_of(Sixteen x) {
  Sixteen scale, part;
  exp2_parts(clamped(x * Sixteen(-1.44269504), Sixteen(-100), Sixteen(100)), scale, part);
  return reciprocal(Sixteen(1) + (scale * part + scale));
}

inline Sixteen tanh_of(Sixteen x) {
  Sixteen scale, part;
  exp2_parts(clamped(x * Sixteen(2 * 1.44269504), Sixteen(-28), Sixteen(28)), scale, part);
  const Sixteen m = scale * part + (scale - Sixteen(1));
  return m * reciprocal(m + Sixteen(2));
}

#else  // never called: has_bfloat16() is false

inline void transform_input(const uint16_t* const*, int64_t, uint16_t*, int64_t) { std::abort(); }
template <int Vectors = 2>
void multiply(const uint16_t*, int64_t, const uint16_t*, float*, int64_t) {
  std::abort();
}

#endif

}  // namespace
}  // namespace convlstm::NATIVE_ISA
