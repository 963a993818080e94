// The pointwise half of a ConvLSTM step, forward and backward, for one element: what CPU and CUDA share.
// Shi et al. 2015 (arXiv 1506.04214), equations 3, in Keras' gate order i, f, g, o. The definition is
// reference.py.
//
// Memory of a step is channels last: a pixel has its 4F gate arguments side by side, i then f then g
// then o, and its F states.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "native/device.h"

// Inlined even where a compiler would not: a call saves and restores every vector register.
#ifdef __CUDACC__
#define GATES_INLINE HD
#else
#define GATES_INLINE HD __attribute__((always_inline))
#endif

namespace convlstm {

// The codes of activations.NATIVE_CODES.
enum class Activation : int {
  linear = 0,
  tanh = 1,
  sigmoid = 2,
  hard_sigmoid = 3,         // Keras 3: clip(x / 6 + 1 / 2, 0, 1)
  hard_sigmoid_keras2 = 4,  // Keras 2: clip(x / 5 + 1 / 2, 0, 1)
  relu = 5,
};

// What this header needs of T: float and double, or vectors of floats (cpu/numbers.h, cpu/bfloat16.h) with
// arithmetic, T(double), clamped, at_least_zero, and power_of_two or functions tanh_of and sigmoid_of.

template <class T>
GATES_INLINE T clamped(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

template <class T>
GATES_INLINE T at_least_zero(T x) {
  return x < T(0) ? T(0) : x;
}

// 2^n from 1.5 * 2^23 + n.
DEV_WRAPS GATES_INLINE float power_of_two(float shifted) {
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + (127u << 23);
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

// e^z - 1 = scale * part + (scale - 1), scale a power of two, part = e^r - 1 with |r| <= ln(2) / 2.
template <class T>
struct Expm1 {
  T scale, part;
};

// No branch and no integer conversion, so that compilers vectorise it. |z| must be below 87 (NaN passes
// through). The Taylor series to r^7 errs by less than 6e-9 relative to part.
template <class T>
GATES_INLINE Expm1<T> expm1_parts(T z) {
  const T magic(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const T shifted = z * T(1.44269504088896341f) + magic;
  const T n = shifted - magic;
  const T r = (z - n * T(0.693145751953125f)) - n * T(1.42860682030941723e-6f);
  T q(1.98412698e-4f);
  q = q * r + T(1.38888889e-3f);
  q = q * r + T(8.33333333e-3f);
  q = q * r + T(4.16666667e-2f);
  q = q * r + T(1.66666667e-1f);
  q = q * r + T(0.5f);
  return {power_of_two(shifted), r + r * r * q};
}

template <class T>
GATES_INLINE T tanh_of(T x) {
  const Expm1<T> e = expm1_parts(T(2.0f) * clamped(x, T(-10.0f), T(10.0f)));
  const T m = e.scale * e.part + (e.scale - T(1.0f));
  return m / (m + T(2.0f));
}

template <class T>
GATES_INLINE T sigmoid_of(T x) {
  const Expm1<T> e = expm1_parts(clamped(x * T(-1.0f), T(-86.0f), T(86.0f)));
  return T(1.0f) / (T(1.0f) + (e.scale * e.part + e.scale));
}

GATES_INLINE double tanh_of(double x) { return std::tanh(x); }
GATES_INLINE double sigmoid_of(double x) { return 1.0 / (1.0 + std::exp(-x)); }

template <Activation A, class T>
GATES_INLINE T activate(T x) {
  if constexpr (A == Activation::tanh)
    return tanh_of(x);
  else if constexpr (A == Activation::sigmoid)
    return sigmoid_of(x);
  else if constexpr (A == Activation::hard_sigmoid)
    return clamped(x / T(6) + T(0.5), T(0), T(1));
  else if constexpr (A == Activation::hard_sigmoid_keras2)
    return clamped(T(0.2) * x + T(0.5), T(0), T(1));
  else if constexpr (A == Activation::relu)
    return at_least_zero(x);
  else
    return x;
}

// The derivative of A at x, from y = A(x).
template <Activation A, class T>
GATES_INLINE T slope(T y) {
  if constexpr (A == Activation::tanh)
    return T(1) - y * y;
  else if constexpr (A == Activation::sigmoid)
    return y * (T(1) - y);
  else if constexpr (A == Activation::hard_sigmoid)
    return y > T(0) && y < T(1) ? T(1) / T(6) : T(0);
  else if constexpr (A == Activation::hard_sigmoid_keras2)
    return y > T(0) && y < T(1) ? T(0.2) : T(0);
  else if constexpr (A == Activation::relu)
    return y > T(0) ? T(1) : T(0);
  else
    return T(1);
}

// One element forward. i, f, g, o: arguments in, activated values out.
template <Activation A, Activation R, class T>
GATES_INLINE void forward_element(T& i, T& f, T& g, T& o, T c_before, T p_i, T p_f, T p_o, T& c, T& h) {
  i = activate<R>(i + p_i * c_before);
  f = activate<R>(f + p_f * c_before);
  g = activate<A>(g);
  c = f * c_before + i * g;
  o = activate<R>(o + p_o * c);
  h = o * activate<A>(c);
}

// One element backward. i, f, g, o: activated values in, gradients of the arguments out.
// dc: gradient of c in, of c_before out.
template <Activation A, Activation R, class T>
GATES_INLINE void backward_element(T& i, T& f, T& g, T& o, T c_before, T c, T dh, T p_i, T p_f, T p_o,
                                   T& dc) {
  const T shown = activate<A>(c);
  const T d_o = dh * shown * slope<R>(o);
  const T d_c = dc + dh * o * slope<A>(shown) + p_o * d_o;
  const T d_i = d_c * g * slope<R>(i);
  const T d_f = d_c * c_before * slope<R>(f);
  const T d_g = d_c * i * slope<A>(g);
  dc = d_c * f + p_i * d_i + p_f * d_f;
  i = d_i;
  f = d_f;
  g = d_g;
  o = d_o;
}

// What a step works on. `pixels` counts B * size; `valid` has one byte for each of the B sequences, each
// of `pixels_per_sequence` pixels. Null pointers: no second summand, no bias, no peepholes, all valid,
// do not keep the gates.
template <class T>
struct ForwardStep {
  int64_t pixels, channels, pixels_per_sequence;
  const T *pre, *pre2;   // (pixels, 4F): their sum with the bias is what the gates get
  const T* bias;         // (4F)
  const T* peephole;     // (3, F)
  const uint8_t* valid;  // (B)
  const T* h_before;     // (pixels, F); read where a sequence is not valid
  const T* c_before;     // (pixels, F)
  T* gates;              // (pixels, 4F), activated
  T *c, *h;              // (pixels, F)
};

// The cell state after a step from its activated gates and the state before: what a forward pass need not
// keep. Pixels of a sequence that is not valid carry it over.
template <class T>
struct CellStep {
  int64_t pixels, channels, pixels_per_sequence;
  const T* gates;     // (pixels, 4F), activated
  const T* c_before;  // (pixels, F)
  const uint8_t* valid;
  T* c;  // (pixels, F)
};

template <class T>
struct BackwardStep {
  int64_t pixels, channels, pixels_per_sequence;
  const T* gates;         // (pixels, 4F), activated
  const T *c_before, *c;  // (pixels, F)
  const T *dh, *dh2;      // (pixels, F): their sum is the gradient of h; either may be null
  const T* peephole;
  const uint8_t* valid;
  T* dc;     // (pixels, F): of c in, of c_before out
  T* d_pre;  // (pixels, 4F)
};

// Which activations have kernels, and where: f(A, R) is called with the two as compile-time constants.
template <Activation A>
using Constant = std::integral_constant<Activation, A>;

template <Activation A, class F>
void with_recurrent(Constant<A> a, Activation recurrent, const F& f) {
  switch (recurrent) {
    case Activation::sigmoid: return f(a, Constant<Activation::sigmoid>{});
    case Activation::hard_sigmoid: return f(a, Constant<Activation::hard_sigmoid>{});
    case Activation::hard_sigmoid_keras2: return f(a, Constant<Activation::hard_sigmoid_keras2>{});
    default: throw std::invalid_argument("gates: no kernel for this recurrent activation");
  }
}

template <class F>
void with_activations(Activation activation, Activation recurrent, const F& f) {
  switch (activation) {
    case Activation::tanh: return with_recurrent(Constant<Activation::tanh>{}, recurrent, f);
    case Activation::relu: return with_recurrent(Constant<Activation::relu>{}, recurrent, f);
    case Activation::linear: return with_recurrent(Constant<Activation::linear>{}, recurrent, f);
    case Activation::sigmoid: return with_recurrent(Constant<Activation::sigmoid>{}, recurrent, f);
    default: throw std::invalid_argument("gates: no kernel for this activation");
  }
}

}  // namespace convlstm
