// What host and device share is marked HD: compiled by both, no containers, no double precision, and (the
// build says so) no contraction of a multiplication and an addition.
#pragma once

#if defined(__CUDACC__) || defined(NATIVE_CUDA_SIM)
#include <native/device.h>
#undef HD  // its own says inline too
#endif
#if defined(__CUDACC__)
#define HD __host__ __device__
#else
#define HD
#endif

namespace nanite_cull {

template <class T>
HD inline T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
HD inline T most(T a, T b) {
  return a < b ? b : a;
}
template <class T>
HD inline T magnitude(T x) {
  return x < T(0) ? -x : x;
}

}  // namespace nanite_cull
