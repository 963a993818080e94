// RMS normalisation (Zhang and Sennrich, 2019, arXiv 1910.07467) and its gradient:
//   y = x s w,  s = 1 / sqrt(mean(x^2) + eps)
//   dx = s (w g - x s^2 mean(w g x)),  dw = sum over rows of g x s
#include <algorithm>
#include <cmath>
#include <memory>

#include "cpu/layers.h"
#include "native/parallel.h"

namespace tp_parallel {
namespace NATIVE_ISA {
namespace {

constexpr int64_t grain = 64;  // rows of a chunk, whose share of dw is summed by itself

}  // namespace

template <class T>
void rms_norm(const T* x, const T* weight, const NormShape& s, T* out, Wide<T>* scale, int threads) {
  const auto shift = static_cast<Wide<T>>(s.shift), eps = static_cast<Wide<T>>(s.eps);
  native::parallel_for(s.rows, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* from = x + row * s.features;
      T* to = out + row * s.features;
      Wide<T> squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < s.features; ++i) squares += widen(from[i]) * widen(from[i]);
      const Wide<T> by = 1 / std::sqrt(squares / static_cast<Wide<T>>(s.features) + eps);
      scale[row] = by;
#pragma omp simd
      for (int64_t i = 0; i < s.features; ++i)
        narrow(widen(from[i]) * by * (widen(weight[i]) + shift), to[i]);
    }
  });
}

template <class T>
void rms_norm_gradient(const T* x, const T* weight, const Wide<T>* scale, const T* grad, const NormShape& s,
                       T* out, T* weight_out, int threads) {
  const auto shift = static_cast<Wide<T>>(s.shift);
  const int64_t n = s.features, chunks = std::max<int64_t>(1, (s.rows + grain - 1) / grain);
  const std::unique_ptr<Wide<T>[]> shares(new Wide<T>[static_cast<size_t>(chunks * n)]());
  native::parallel_for(s.rows, grain, threads, [&](int64_t begin, int64_t end) {
    Wide<T>* share = shares.get() + begin / grain * n;
    for (int64_t row = begin; row < end; ++row) {
      const T *from = x + row * n, *g = grad + row * n;
      T* to = out + row * n;
      const Wide<T> by = scale[row];
      Wide<T> along = 0;
#pragma omp simd reduction(+ : along)
      for (int64_t i = 0; i < n; ++i) along += widen(g[i]) * (widen(weight[i]) + shift) * widen(from[i]);
      along *= by * by / static_cast<Wide<T>>(n);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        share[i] += widen(g[i]) * widen(from[i]) * by;
        narrow(by * (widen(g[i]) * (widen(weight[i]) + shift) - widen(from[i]) * along), to[i]);
      }
    }
  });
  Wide<T>* total = shares.get();
  for (const Wide<T>* share = total + n; share < total + chunks * n; share += n)
    for (int64_t i = 0; i < n; ++i) total[i] += share[i];
  for (int64_t i = 0; i < n; ++i) narrow(total[i], weight_out[i]);
}

#define TP_PARALLEL_FOR(T)                                                                                \
  template void rms_norm(const T*, const T*, const NormShape&, T*, Wide<T>*, int);                        \
  template void rms_norm_gradient(const T*, const T*, const Wide<T>*, const T*, const NormShape&, T*, T*, \
                                  int);
TP_PARALLEL_FOR(float)
TP_PARALLEL_FOR(BFloat16)
TP_PARALLEL_FOR(double)

}  // namespace NATIVE_ISA
}  // namespace tp_parallel
