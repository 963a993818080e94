// Blocks of blocks.h for bfloat16 inputs, on processors with AVX512-BF16. A bfloat16 is the upper half of a
// float. Products are summed in float, two neighbouring rows of the weights at a time: the weights are
// packed as (rows / 2, columns, 2).
#pragma once

#include <cstring>

#include "cpu/numbers.h"
#include "cpu/tiles.h"

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

// As tiles.h has it, of F(2x2, 3x3) alone.
template <class T>
__attribute__((target("avx512bf16"))) void transform_input(const uint16_t* const* d, int64_t channels,
                                                           uint16_t* out, int64_t stride) {
  static_assert(T::side == 4);
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
template <int Vectors, int Rows>
__attribute__((target("avx512bf16"))) void multiply(const uint16_t* inputs, int64_t stride, int64_t channels,
                                                    const uint16_t* weights, float* products) {
  __m512 a[Rows], b[Rows];
  for (int r = 0; r < Rows; ++r) a[r] = b[r] = _mm512_setzero_ps();
  for (int64_t c = 0; c < channels; c += 2, weights += 2 * columns) {
    const __m512bh low = (__m512bh)_mm512_loadu_si512(weights);
    const __m512bh high = (__m512bh)_mm512_loadu_si512(weights + 2 * lanes);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      int pair;
      std::memcpy(&pair, inputs + r * stride + c, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      a[r] = _mm512_dpbf16_ps(a[r], x, low);
      if constexpr (Vectors == 2) b[r] = _mm512_dpbf16_ps(b[r], x, high);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    _mm512_storeu_ps(products + r * columns, a[r]);
    if constexpr (Vectors == 2) _mm512_storeu_ps(products + r * columns + lanes, b[r]);
  }
}

// Sixteen floats for core/gates.h, with activations that err by less than a tenth of bfloat16's rounding.
struct Sixteen {
  __m512 v;
  Sixteen() = default;
  Sixteen(__m512 x) : v(x) {}
  explicit Sixteen(double x) : v(_mm512_set1_ps(static_cast<float>(x))) {}
};

CONVLSTM_INLINE Sixteen operator+(Sixteen a, Sixteen b) { return a.v + b.v; }
CONVLSTM_INLINE Sixteen operator-(Sixteen a, Sixteen b) { return a.v - b.v; }
CONVLSTM_INLINE Sixteen operator*(Sixteen a, Sixteen b) { return a.v * b.v; }
CONVLSTM_INLINE Sixteen operator/(Sixteen a, Sixteen b) { return a.v / b.v; }

// The second operand comes back where one of them is not a number.
CONVLSTM_INLINE __m512 smaller(__m512 a, __m512 x) { return _mm512_mask_min_ps(x, 0xffff, a, x); }
CONVLSTM_INLINE __m512 larger(__m512 a, __m512 x) { return _mm512_mask_max_ps(x, 0xffff, a, x); }

CONVLSTM_INLINE Sixteen clamped(Sixteen x, Sixteen low, Sixteen high) {
  return smaller(high.v, larger(low.v, x.v));
}
CONVLSTM_INLINE Sixteen at_least_zero(Sixteen x) { return larger(_mm512_setzero_ps(), x.v); }

// x 2^floor(z); infinite z give zero or infinity.
CONVLSTM_INLINE Sixteen scaled(Sixteen x, Sixteen z) { return _mm512_mask_scalef_ps(x.v, 0xffff, x.v, z.v); }
CONVLSTM_INLINE Sixteen reciprocal(Sixteen x) { return _mm512_maskz_rcp14_ps(0xffff, x.v); }

// 2^z = 2^floor(z) 2^f: the cubic, which is smallest in its largest relative error, errs by 1.1e-4.
CONVLSTM_INLINE Sixteen sigmoid_of(Sixteen x) {
  const Sixteen z = x * Sixteen(-1.44269504);
  const Sixteen f = _mm512_maskz_reduce_ps(0xffff, z.v, _MM_FROUND_TO_NEG_INF);
  const Sixteen power =
      ((Sixteen(0.07802452) * f + Sixteen(0.22606716)) * f + Sixteen(0.69583354)) * f + Sixteen(0.99992522);
  return reciprocal(Sixteen(1) + scaled(power, z));
}

// By e^2x - 1, exact to the same error near zero too.
CONVLSTM_INLINE Sixteen tanh_of(Sixteen x) {
  const Sixteen z = smaller(_mm512_set1_ps(60), (x * Sixteen(2 * 1.44269504)).v);
  const Sixteen r = _mm512_maskz_reduce_ps(0xffff, z.v, _MM_FROUND_TO_NEAREST_INT);
  const Sixteen scale = scaled(Sixteen(1), z - r);
  const Sixteen fraction = (((Sixteen(0.00961813) * r + Sixteen(0.05550411)) * r + Sixteen(0.24022651)) * r +
                            Sixteen(0.69314718)) *
                           r;
  const Sixteen m = scale * fraction + (scale - Sixteen(1));
  return m * reciprocal(m + Sixteen(2));
}

// To the nearest, ties to even, as store_rounded, in instructions of any processor with AVX-512.
CONVLSTM_INLINE Span<uint16_t, 16> rounded(Sixteen x) {
  const __m512i bits = _mm512_castps_si512(x.v), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_maskz_and_epi32(0xffff, _mm512_maskz_srli_epi32(0xffff, bits, 16), one);
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 unordered = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i high = _mm512_maskz_srli_epi32(0xffff, up, 16);
  const __m512i all = _mm512_mask_mov_epi32(high, unordered, _mm512_set1_epi32(0x7fc0));
  const __m256i half = _mm512_maskz_cvtepi32_epi16(0xffff, all);
  Span<uint16_t, 16> v;
  std::memcpy(&v, &half, sizeof v);
  return v;
}

#endif

}  // namespace
}  // namespace convlstm::NATIVE_ISA
