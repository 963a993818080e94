// Loops over the gates of a step: pixels in chunks over the threads, channels in vector registers.
#include "cpu/gates.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

// Pixels of one chunk; fixed, so that results do not depend on the number of threads.
constexpr int64_t pixels_per_chunk = 256;

// A row of a tensor for each pixel; a tensor that is not there reads as one row of zeros, so that the
// loops over channels have no tests and become vector code.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
  T* operator[](int64_t pixel) const { return data + pixel * stride; }
};

template <class T>
Rows<const T> rows_or(const T* data, int64_t stride, const T* zeros) {
  return data ? Rows<const T>{data, stride} : Rows<const T>{zeros, 0};
}

// Channels [j, n) of a pixel: as many at once as a register takes, then half as many, and so on. (Of a loop
// of unknown length compilers do what is left one by one.)
template <int Width, class Body>
inline __attribute__((always_inline)) void in_spans(int64_t j, int64_t n, Body body) {
  for (; j + Width <= n; j += Width) body(j, std::integral_constant<int, Width>());
  if constexpr (Width > 1) in_spans<Width / 2>(j, n, body);
}
template <class T>
constexpr int widest = 64 / sizeof(T);

template <Activation A, Activation R, class T>
void forward_pixel(int64_t n, const T* pre, const T* pre2, const T* bias, const T* peephole,
                   const T* c_before, T* gates, T* c, T* h) {
  in_spans<widest<T>>(0, n, [=](int64_t first, auto width) __attribute__((always_inline)) {
#pragma omp simd
    for (int64_t j = first; j < first + width; ++j) {
      T i = pre[j] + pre2[j] + bias[j], f = pre[n + j] + pre2[n + j] + bias[n + j];
      T g = pre[2 * n + j] + pre2[2 * n + j] + bias[2 * n + j];
      T o = pre[3 * n + j] + pre2[3 * n + j] + bias[3 * n + j];
      T c_new, h_new;
      forward_element<A, R>(i, f, g, o, c_before[j], peephole[j], peephole[n + j], peephole[2 * n + j], c_new,
                            h_new);
      c[j] = c_new;
      h[j] = h_new;
      gates[j] = i;
      gates[n + j] = f;
      gates[2 * n + j] = g;
      gates[3 * n + j] = o;
    }
  });
}

template <Activation A, Activation R, class T>
void backward_pixel(int64_t n, const T* gates, const T* c_before, const T* c, const T* dh, const T* dh2,
                    const T* peephole, T* dc, T* d_pre) {
  in_spans<widest<T>>(0, n, [=](int64_t first, auto width) __attribute__((always_inline)) {
#pragma omp simd
    for (int64_t j = first; j < first + width; ++j) {
      T i = gates[j], f = gates[n + j], g = gates[2 * n + j], o = gates[3 * n + j], d = dc[j];
      backward_element<A, R>(i, f, g, o, c_before[j], c[j], dh[j] + dh2[j], peephole[j], peephole[n + j],
                             peephole[2 * n + j], d);
      dc[j] = d;
      d_pre[j] = i;
      d_pre[n + j] = f;
      d_pre[2 * n + j] = g;
      d_pre[3 * n + j] = o;
    }
  });
}

template <class S>
bool is_valid(const S& s, int64_t pixel) {
  return s.valid == nullptr || s.valid[pixel / s.pixels_per_sequence] != 0;
}

template <Activation A, Activation R, class T>
void run(const ForwardStep<T>& s, int threads) {
  const int64_t n = s.channels;
  const std::vector<T> zeros(4 * n);
  const T *bias = s.bias ? s.bias : zeros.data(), *peephole = s.peephole ? s.peephole : zeros.data();
  const Rows<const T> pre2 = rows_or(s.pre2, 4 * n, zeros.data());
  native::parallel_for(s.pixels, pixels_per_chunk, threads, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(s.gates ? 0 : 4 * n);
    const Rows<T> gates = s.gates ? Rows<T>{s.gates, 4 * n} : Rows<T>{scratch.data(), 0};
    for (int64_t p = begin; p < end; ++p) {
      if (is_valid(s, p)) {
        forward_pixel<A, R>(n, s.pre + p * 4 * n, pre2[p], bias, peephole, s.c_before + p * n, gates[p],
                            s.c + p * n, s.h + p * n);
        continue;
      }
      std::copy_n(s.h_before + p * n, n, s.h + p * n);
      std::copy_n(s.c_before + p * n, n, s.c + p * n);
      std::fill_n(gates[p], 4 * n, T(0));
    }
  });
}

template <class T>
void run(const CellStep<T>& s, int threads) {
  const int64_t n = s.channels;
  native::parallel_for(s.pixels, pixels_per_chunk, threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const T *i = s.gates + p * 4 * n, *f = i + n, *g = f + n, *before = s.c_before + p * n;
      T* c = s.c + p * n;
      if (is_valid(s, p)) {
#pragma omp simd
        for (int64_t j = 0; j < n; ++j) c[j] = f[j] * before[j] + i[j] * g[j];
      } else {
        std::copy_n(before, n, c);
      }
    }
  });
}

// A step that is not valid hands dc through; its arguments get no gradient, and that of h goes straight
// to the h before (the caller's work: it is not pointwise in this step).
template <Activation A, Activation R, class T>
void run(const BackwardStep<T>& s, int threads) {
  const int64_t n = s.channels;
  const std::vector<T> zeros(3 * n);
  const T* peephole = s.peephole ? s.peephole : zeros.data();
  const Rows<const T> dh = rows_or(s.dh, n, zeros.data()), dh2 = rows_or(s.dh2, n, zeros.data());
  native::parallel_for(s.pixels, pixels_per_chunk, threads, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      T* d_pre = s.d_pre + p * 4 * n;
      if (is_valid(s, p))
        backward_pixel<A, R>(n, s.gates + p * 4 * n, s.c_before + p * n, s.c + p * n, dh[p], dh2[p], peephole,
                             s.dc + p * n, d_pre);
      else
        std::fill_n(d_pre, 4 * n, T(0));
    }
  });
}

template <class Step>
void dispatch(const Step& s, Activation activation, Activation recurrent, int threads) {
  with_activations(activation, recurrent, [&](auto a, auto r) { run<a(), r()>(s, threads); });
}

}  // namespace

void gates_forward_float(const ForwardStep<float>& s, Activation a, Activation r, int threads) {
  dispatch(s, a, r, threads);
}
void gates_forward_double(const ForwardStep<double>& s, Activation a, Activation r, int threads) {
  dispatch(s, a, r, threads);
}
void cell_state_float(const CellStep<float>& s, int threads) { run(s, threads); }
void cell_state_double(const CellStep<double>& s, int threads) { run(s, threads); }
void gates_backward_float(const BackwardStep<float>& s, Activation a, Activation r, int threads) {
  dispatch(s, a, r, threads);
}
void gates_backward_double(const BackwardStep<double>& s, Activation a, Activation r, int threads) {
  dispatch(s, a, r, threads);
}

}  // namespace convlstm::NATIVE_ISA
