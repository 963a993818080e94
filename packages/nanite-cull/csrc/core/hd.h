// What host and device share is marked HD: compiled by both, no containers, no double precision, and (the
// build says so) no contraction of a multiplication and an addition.
#pragma once

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
HD inline float magnitude(float x) { return x < 0 ? -x : x; }

}  // namespace nanite_cull
