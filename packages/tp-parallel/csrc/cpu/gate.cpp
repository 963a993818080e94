// Gated activations (Shazeer, 2020, arXiv 2002.05202): y = f(a) b of [a, b], and their gradient.
//
// Both functions are f(a) = a sigmoid(s(a)): SiLU with s(a) = a, and the tanh form of GELU (Hendrycks and
// Gimpel, 2016, arXiv 1606.08415) with s(a) = 2 sqrt(2 / pi) (a + 0.044715 a^3), as
// (1 + tanh u) / 2 = sigmoid(2 u). So f' = sigmoid(s) (1 + a (1 - sigmoid(s)) s').
#include <cmath>

#include "cpu/exponential.h"
#include "cpu/layers.h"
#include "native/parallel.h"

namespace tp_parallel {
namespace NATIVE_ISA {
namespace {

constexpr int64_t grain = 16;  // rows of a chunk of work
constexpr double linear = 1.5957691216057308, cubic = 0.044715 * linear;

template <class Real>
Real sigmoid(Real s) {
  const Real e = exponential(s < 0 ? s : -s);
  return (s < 0 ? e : Real(1)) / (1 + e);
}

template <bool gelu, class Real>
Real argument(Real a) {
  return gelu ? a * (Real(linear) + Real(cubic) * a * a) : a;
}

template <bool gelu, class Real>
Real slope(Real a) {
  return gelu ? Real(linear) + 3 * Real(cubic) * a * a : Real(1);
}

template <bool gelu, class T>
void forward(const T* x, const GateShape& s, T* out, int threads) {
  native::parallel_for(s.rows, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T *a = x + 2 * row * s.inner, *b = a + s.inner;
      T* to = out + row * s.inner;
#pragma omp simd
      for (int64_t i = 0; i < s.inner; ++i) {
        const auto at = widen(a[i]);
        narrow(at * sigmoid(argument<gelu>(at)) * widen(b[i]), to[i]);
      }
    }
  });
}

template <bool gelu, class T>
void backward(const T* x, const T* grad, const GateShape& s, T* out, int threads) {
  native::parallel_for(s.rows, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T *a = x + 2 * row * s.inner, *b = a + s.inner, *g = grad + row * s.inner;
      T *to_a = out + 2 * row * s.inner, *to_b = to_a + s.inner;
#pragma omp simd
      for (int64_t i = 0; i < s.inner; ++i) {
        const auto at = widen(a[i]), from = widen(g[i]);
        const auto part = sigmoid(argument<gelu>(at));
        narrow(from * at * part, to_b[i]);
        narrow(from * widen(b[i]) * part * (1 + at * (1 - part) * slope<gelu>(at)), to_a[i]);
      }
    }
  });
}

}  // namespace

template <class T>
void gate(const T* x, const GateShape& s, T* out, int threads) {
  s.gelu ? forward<true>(x, s, out, threads) : forward<false>(x, s, out, threads);
}

template <class T>
void gate_gradient(const T* x, const T* grad, const GateShape& s, T* out, int threads) {
  s.gelu ? backward<true>(x, grad, s, out, threads) : backward<false>(x, grad, s, out, threads);
}

#define TP_PARALLEL_FOR(T)                                 \
  template void gate(const T*, const GateShape&, T*, int); \
  template void gate_gradient(const T*, const T*, const GateShape&, T*, int);
TP_PARALLEL_FOR(float)
TP_PARALLEL_FOR(BFloat16)
TP_PARALLEL_FOR(double)

}  // namespace NATIVE_ISA
}  // namespace tp_parallel
