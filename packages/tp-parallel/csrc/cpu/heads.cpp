// Query, key and value out of one product, turned by their positions on the way (Su et al., 2021, arXiv
// 2104.09864), and their gradients back into one. The pair (x[i], x[i + half]) turns by angle i.
#include "cpu/layers.h"
#include "native/parallel.h"

namespace tp_parallel {
namespace NATIVE_ISA {
namespace {

constexpr int64_t grain = 16;  // tokens of a chunk of work

template <class T>
void copy(const T* from, int64_t count, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// `sign` -1 turns back.
template <class T>
void turn(const T* from, const T* cosines, const T* sines, int sign, const HeadShape& s, T* to) {
  const T *a = from, *b = from + s.half;
  T *to_a = to, *to_b = to + s.half;
#pragma omp simd
  for (int64_t i = 0; i < s.half; ++i) {
    const Wide<T> c = widen(cosines[i]), by = Wide<T>(sign) * widen(sines[i]);
    narrow(widen(a[i]) * c - widen(b[i]) * by, to_a[i]);
    narrow(widen(b[i]) * c + widen(a[i]) * by, to_b[i]);
  }
  copy(from + 2 * s.half, s.width - 2 * s.half, to + 2 * s.half);
}

}  // namespace

template <class T>
void split_heads(const T* qkv, const T* table, const HeadShape& s, T* q, T* k, T* v, int threads) {
  native::parallel_for(s.tokens, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * s.groups; at < end * s.groups; ++at) {
      const T* cosines = table + at / s.groups % s.places * s.half;
      const T* sines = cosines + s.places * s.half;
      const T* from = qkv + at * (s.queries + 2) * s.width;
      for (int64_t i = 0; i < s.queries; ++i, from += s.width)
        turn(from, cosines, sines, 1, s, q + (at * s.queries + i) * s.width);
      turn(from, cosines, sines, 1, s, k + at * s.width);
      copy(from + s.width, s.width, v + at * s.width);
    }
  });
}

template <class T>
void join_heads(const T* q, const T* k, const T* v, const T* table, const HeadShape& s, T* qkv, int threads) {
  native::parallel_for(s.tokens, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * s.groups; at < end * s.groups; ++at) {
      const T* cosines = table + at / s.groups % s.places * s.half;
      const T* sines = cosines + s.places * s.half;
      T* to = qkv + at * (s.queries + 2) * s.width;
      for (int64_t i = 0; i < s.queries; ++i, to += s.width)
        turn(q + (at * s.queries + i) * s.width, cosines, sines, -1, s, to);
      turn(k + at * s.width, cosines, sines, -1, s, to);
      copy(v + at * s.width, s.width, to + s.width);
    }
  });
}

#define TP_PARALLEL_FOR(T)                                                          \
  template void split_heads(const T*, const T*, const HeadShape&, T*, T*, T*, int); \
  template void join_heads(const T*, const T*, const T*, const T*, const HeadShape&, T*, int);
TP_PARALLEL_FOR(float)
TP_PARALLEL_FOR(BFloat16)
TP_PARALLEL_FOR(double)

}  // namespace NATIVE_ISA
}  // namespace tp_parallel
