// See core/loss.h. A row is read in blocks that stay in the first-level cache; within a block every loop
// vectorises.
#include "cpu/loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/exponential.h"
#include "native/parallel.h"

namespace tp_parallel {
namespace NATIVE_ISA {
namespace {

constexpr int64_t block = 2048;  // values; 8 KiB of float
constexpr int64_t grain = 4;     // rows of a chunk of work

template <class T, class Wide>
Wide block_maximum(const T* x, int64_t count) {
  Wide found = -std::numeric_limits<Wide>::infinity();
#pragma omp simd reduction(max : found)
  for (int64_t i = 0; i < count; ++i) found = std::max(found, widen(x[i]));
  return found;
}

template <class T, class Wide>
Wide block_sum_exp(const T* x, int64_t count, Wide shift) {
  Wide total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += exponential(widen(x[i]) - shift);
  return total;
}

template <class T, class Wide>
Wide block_sum(const T* x, int64_t count) {
  Wide total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += widen(x[i]);
  return total;
}

template <class T, class Wide>
void row_statistics(const T* x, int64_t valid, bool with_sum, Wide* out) {
  Wide top = -std::numeric_limits<Wide>::infinity();
  double total = 0, plain = 0;  // over blocks in double: a long row must not lose its small terms
  for (int64_t begin = 0; begin < valid; begin += block) {
    const int64_t count = std::min(block, valid - begin);
    const Wide here = block_maximum<T, Wide>(x + begin, count);
    if (here > top) {
      total *= std::exp(static_cast<double>(top) - here);
      top = here;
    }
    // a block of nothing but -inf has nothing to add, and -inf - -inf is no number
    if (top > -std::numeric_limits<Wide>::infinity()) total += block_sum_exp<T, Wide>(x + begin, count, top);
    if (with_sum) plain += block_sum<T, Wide>(x + begin, count);
  }
  out[maximum] = top;
  out[sum_exp] = static_cast<Wide>(total);
  out[sum] = static_cast<Wide>(plain);
}

template <class T, class Wide>
void statistics_of(const T* logits, const LossShape& s, bool with_sum, Wide* out, int threads) {
  native::parallel_for(s.rows, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = logits + row * s.columns;
      Wide* mine = out + row * statistics_count;
      row_statistics<T, Wide>(x, s.valid, with_sum, mine);
      const int64_t column = s.target[row] - s.start;
      const bool own = s.target[row] != s.ignore_index && column >= 0 && column < s.valid;
      mine[target_logit] = own ? widen(x[column]) : Wide(0);
    }
  });
}

template <class T, class Wide>
void row_gradient(const T* x, int64_t valid, Wide lse, Wide scale, Wide shift, T* out) {
#pragma omp simd
  for (int64_t i = 0; i < valid; ++i) narrow(exponential(widen(x[i]) - lse) * scale - shift, out[i]);
}

template <class T, class Wide>
void gradient_of(const T* logits, const LossShape& s, const LossGradient& g, const Wide* lse,
                 const Wide* grad, T* out, int threads) {
  native::parallel_for(s.rows, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = logits + row * s.columns;
      T* to = out + row * s.columns;
      const bool ignored = s.target[row] == s.ignore_index || grad[row] == Wide(0);
      const int64_t filled = ignored ? 0 : s.valid;
      std::memset(static_cast<void*>(to + filled), 0, sizeof(T) * (s.columns - filled));
      if (ignored) continue;
      const double from = grad[row];
      const Wide scale = static_cast<Wide>(from * (1.0 + 2.0 * g.z_loss * lse[row]));
      const Wide shift = static_cast<Wide>(from * g.smoothing / static_cast<double>(g.classes));
      const int64_t column = s.target[row] - s.start;
      const bool own = column >= 0 && column < s.valid;
      // read before the row is overwritten, when out is logits
      const Wide at_target = own ? exponential(widen(x[column]) - lse[row]) * scale - shift : Wide(0);
      row_gradient<T, Wide>(x, s.valid, lse[row], scale, shift, to);
      if (own) narrow(at_target - static_cast<Wide>(from * (1.0 - g.smoothing)), to[column]);
    }
  });
}

}  // namespace

void statistics_float(const float* x, const LossShape& s, bool with_sum, float* out, int threads) {
  statistics_of(x, s, with_sum, out, threads);
}
void statistics_bfloat16(const BFloat16* x, const LossShape& s, bool with_sum, float* out, int threads) {
  statistics_of(x, s, with_sum, out, threads);
}
void statistics_double(const double* x, const LossShape& s, bool with_sum, double* out, int threads) {
  statistics_of(x, s, with_sum, out, threads);
}
void gradient_float(const float* x, const LossShape& s, const LossGradient& g, const float* lse,
                    const float* grad, float* out, int threads) {
  gradient_of(x, s, g, lse, grad, out, threads);
}
void gradient_bfloat16(const BFloat16* x, const LossShape& s, const LossGradient& g, const float* lse,
                       const float* grad, BFloat16* out, int threads) {
  gradient_of(x, s, g, lse, grad, out, threads);
}
void gradient_double(const double* x, const LossShape& s, const LossGradient& g, const double* lse,
                     const double* grad, double* out, int threads) {
  gradient_of(x, s, g, lse, grad, out, threads);
}

}  // namespace NATIVE_ISA
}  // namespace tp_parallel
