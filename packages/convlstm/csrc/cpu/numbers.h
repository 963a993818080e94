// A vector of floats as a number for core/gates.h, and vectors gathered from and scattered to several pixels.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "cpu/blocks.h"

namespace convlstm::NATIVE_ISA {
namespace {

template <class T, int Width>
struct SpanOf {
  using type [[gnu::vector_size(Width * sizeof(T))]] = T;
};
template <class T, int Width>
using Span = typename SpanOf<T, Width>::type;

struct Floats {
  Span<float, lanes> v;
  Floats() = default;
  Floats(Span<float, lanes> x) : v(x) {}
  explicit Floats(double x) : v(Span<float, lanes>{} + static_cast<float>(x)) {}
};

CONVLSTM_INLINE Floats operator+(Floats a, Floats b) { return a.v + b.v; }
CONVLSTM_INLINE Floats operator-(Floats a, Floats b) { return a.v - b.v; }
CONVLSTM_INLINE Floats operator*(Floats a, Floats b) { return a.v * b.v; }
CONVLSTM_INLINE Floats operator/(Floats a, Floats b) { return a.v / b.v; }

CONVLSTM_INLINE Floats clamped(Floats x, Floats low, Floats high) {
  const Span<float, lanes> raised = x.v < low.v ? low.v : x.v;
  return raised > high.v ? high.v : raised;
}
CONVLSTM_INLINE Floats at_least_zero(Floats x) {
  const Span<float, lanes> zero{};
  return x.v < zero ? zero : x.v;
}
CONVLSTM_INLINE Floats power_of_two(Floats shifted) {
  const auto bits = ((Span<uint32_t, lanes>)shifted.v << 23) + (127u << 23);
  return (Span<float, lanes>)bits;
}

// Shuffles

// The lower (Part 0) or upper (Part 1) halves of two vectors side by side; likewise the even or odd
// quarters.
template <int Part, class V, int... I>
CONVLSTM_INLINE V halves(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int half = sizeof...(I) / 2;
  return __builtin_shufflevector(a, b, (I + (I < half ? 0 : half) + Part * half)...);
}
template <int Part, class V, int... I>
CONVLSTM_INLINE V quarters(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int quarter = sizeof...(I) / 4;
  return __builtin_shufflevector(a, b, (I + I / quarter * quarter + Part * quarter)...);
}
template <int Part>
CONVLSTM_INLINE Span<float, lanes> halves(Span<float, lanes> a, Span<float, lanes> b) {
  return halves<Part>(a, b, std::make_integer_sequence<int, lanes>());
}
template <int Part>
CONVLSTM_INLINE Span<float, lanes> quarters(Span<float, lanes> a, Span<float, lanes> b) {
  return quarters<Part>(a, b, std::make_integer_sequence<int, lanes>());
}

template <class T, int Width, int... I>
CONVLSTM_INLINE Span<T, 2 * Width> joined(Span<T, Width> a, Span<T, Width> b,
                                          std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, I...);
}
template <class T, int Width>
CONVLSTM_INLINE Span<T, 2 * Width> joined(Span<T, Width> a, Span<T, Width> b) {
  return joined<T, Width>(a, b, std::make_integer_sequence<int, 2 * Width>());
}
template <class T, int Width, int Part, int... I>
CONVLSTM_INLINE Span<T, Width / 2> half_of(Span<T, Width> a, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, a, (I + Part * Width / 2)...);
}
template <class T, int Width, int Part>
CONVLSTM_INLINE Span<T, Width / 2> half_of(Span<T, Width> a) {
  return half_of<T, Width, Part>(a, std::make_integer_sequence<int, Width / 2>());
}

// Pixels

// What a pixel that is not there reads.
alignas(64) constexpr float no_floats[lanes] = {};

// A vector holds the channels of `Pixels` pixels one after another.
template <int Pixels>
constexpr int channels_each = lanes / Pixels;

// The first `count` of Width elements; zeros after them.
template <class T, int Width>
CONVLSTM_INLINE Span<T, Width> load_some(const T* from, int64_t count) {
  Span<T, Width> v{};
  if (count == Width) {
    std::memcpy(&v, from, sizeof v);
    return v;
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && Width == 16)
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << count) - 1), from);
#endif
  for (int64_t j = 0; j < count; ++j) v[j] = from[j];
  return v;
}

template <class T, int Width>
CONVLSTM_INLINE void store_some(Span<T, Width> v, T* to, int64_t count) {
  if (count == Width) {
    std::memcpy(to, &v, sizeof v);
    return;
  }
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && Width == 16)
    return _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1 << count) - 1), v);
#endif
  for (int64_t j = 0; j < count; ++j) to[j] = v[j];
}

// `place(p)` is where the `count` channels of pixel p lie.
template <int Pixels, class Place>
CONVLSTM_INLINE Span<float, lanes> gathered(int64_t count, Place place) {
  constexpr int width = channels_each<Pixels>;
  auto load = [&](int p) CONVLSTM_INLINE_LAMBDA { return load_some<float, width>(place(p), count); };
  if constexpr (Pixels == 2)
    return joined<float, width>(load(0), load(1));
  else
    return joined<float, 2 * width>(joined<float, width>(load(0), load(1)),
                                    joined<float, width>(load(2), load(3)));
}

template <class T, int Pixels, class Place>
CONVLSTM_INLINE void scattered(Span<T, lanes> v, int64_t count, Place place) {
  constexpr int width = channels_each<Pixels>;
  const Span<T, lanes / 2> low = half_of<T, lanes, 0>(v), high = half_of<T, lanes, 1>(v);
  if constexpr (Pixels == 2) {
    store_some<T, width>(low, place(0), count);
    store_some<T, width>(high, place(1), count);
  } else {
    store_some<T, width>(half_of<T, lanes / 2, 0>(low), place(0), count);
    store_some<T, width>(half_of<T, lanes / 2, 1>(low), place(1), count);
    store_some<T, width>(half_of<T, lanes / 2, 0>(high), place(2), count);
    store_some<T, width>(half_of<T, lanes / 2, 1>(high), place(3), count);
  }
}

}  // namespace
}  // namespace convlstm::NATIVE_ISA
