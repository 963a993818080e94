// One block a row: its threads read neighbouring columns and join their maxima and sums in shared memory.
#include "cuda/loss.h"

#include <math.h>

namespace tp_parallel::cuda {
namespace {

constexpr int threads_per_block = 256;
constexpr int blocks_per_multiprocessor = 16;  // further rows are taken in turn
constexpr float nothing = -INFINITY;

// Maximum and sum of exp(x - maximum) of what was seen so far.
struct Online {
  float top, total;
};

// No value yet, or only -inf: nothing to add, and -inf - -inf is no number.
HD Online join(Online a, Online b) {
  if (b.top == nothing) return a;
  if (a.top == nothing) return b;
  if (b.top > a.top) {
    const Online swap = a;
    a = b;
    b = swap;
  }
  return {a.top, a.total + b.total * expf(b.top - a.top)};
}

template <class T>
DEV_KERNEL(threads_per_block)
statistics_kernel(const T* logits, LossShape s, bool with_sum, float* out) {
  DEV_SHARED(Online, online, threads_per_block);
  DEV_SHARED(float, plain, threads_per_block);
  const int lane = static_cast<int>(threadIdx.x);
  for (int64_t row = blockIdx.x; row < s.rows; row += gridDim.x) {
    const T* x = logits + row * s.columns;
    Online mine{nothing, 0.0f};
    float sum_here = 0.0f;
    for (int64_t column = lane; column < s.valid; column += threads_per_block) {
      const float value = widen(x[column]);
      // a NaN must reach the result, and no comparison is true of it
      mine = value != value ? Online{value, value} : join(mine, {value, 1.0f});
      if (with_sum) sum_here += value;
    }
    online[lane] = mine;
    plain[lane] = sum_here;
    __syncthreads();
    for (int half = threads_per_block / 2; half > 0; half /= 2) {
      if (lane < half) {
        online[lane] = join(online[lane], online[lane + half]);
        plain[lane] += plain[lane + half];
      }
      __syncthreads();
    }
    if (lane == 0) {
      float* to = out + row * static_cast<int>(statistics_count);
      const int64_t column = s.target[row] - s.start;
      const bool own = s.target[row] != s.ignore_index && column >= 0 && column < s.valid;
      to[maximum] = online[0].top;
      to[sum_exp] = online[0].total;
      to[target_logit] = own ? widen(x[column]) : 0.0f;
      to[sum] = plain[0];
    }
    __syncthreads();  // the next row overwrites what lane 0 reads
  }
}

template <class T>
DEV_KERNEL(threads_per_block)
gradient_kernel(const T* logits, LossShape s, LossGradient g, const float* lse, const float* grad, T* out) {
  for (int64_t row = blockIdx.x; row < s.rows; row += gridDim.x) {
    const T* x = logits + row * s.columns;
    T* to = out + row * s.columns;
    const bool ignored = s.target[row] == s.ignore_index || grad[row] == 0.0f;
    const int64_t filled = ignored ? 0 : s.valid;
    const double from = grad[row];
    const float scale = static_cast<float>(from * (1.0 + 2.0 * g.z_loss * lse[row]));
    const float shift = static_cast<float>(from * g.smoothing / static_cast<double>(g.classes));
    const float peak = static_cast<float>(from * (1.0 - g.smoothing));
    const int64_t own = s.target[row] - s.start;
    for (int64_t column = threadIdx.x; column < s.columns; column += threads_per_block) {
      float value = 0.0f;
      if (column < filled) {
        value = expf(widen(x[column]) - lse[row]) * scale - shift;
        if (column == own) value -= peak;
      }
      narrow(value, to[column]);
    }
  }
}

template <class T>
void launch_statistics(const T* logits, const LossShape& s, bool with_sum, float* out, void* stream) {
  if (s.rows == 0) return;
  dev::launch(statistics_kernel<T>, dev::grid_blocks(s.rows, blocks_per_multiprocessor), threads_per_block, 0,
              dev::stream_from(stream), logits, s, with_sum, out);
}

template <class T>
void launch_gradient(const T* logits, const LossShape& s, const LossGradient& g, const float* lse,
                     const float* grad, T* out, void* stream) {
  if (s.rows == 0) return;
  dev::launch(gradient_kernel<T>, dev::grid_blocks(s.rows, blocks_per_multiprocessor), threads_per_block, 0,
              dev::stream_from(stream), logits, s, g, lse, grad, out);
}

}  // namespace

void statistics(const float* logits, const LossShape& shape, bool with_sum, float* out, void* stream) {
  launch_statistics(logits, shape, with_sum, out, stream);
}
void statistics(const BFloat16* logits, const LossShape& shape, bool with_sum, float* out, void* stream) {
  launch_statistics(logits, shape, with_sum, out, stream);
}
void gradient(const float* logits, const LossShape& shape, const LossGradient& terms, const float* lse,
              const float* grad, float* out, void* stream) {
  launch_gradient(logits, shape, terms, lse, grad, out, stream);
}
void gradient(const BFloat16* logits, const LossShape& shape, const LossGradient& terms, const float* lse,
              const float* grad, BFloat16* out, void* stream) {
  launch_gradient(logits, shape, terms, lse, grad, out, stream);
}

}  // namespace tp_parallel::cuda
