// e^x that vectorises. For sources compiled once per instruction set (native/dispatch.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace tp_parallel {
namespace NATIVE_ISA {
namespace {

// e^x for x <= 0 within 2 units in the last place; 0 below -87, where float has no normal numbers.
// x = n ln 2 + r, |r| <= ln 2 / 2; the coefficients are the Taylor series' to degree 7.
inline float exponential(float x) {
  constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + rounder;
  const float n = shifted - rounder;
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  float p = 1.98412698e-4f;
  p = p * r + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits <<= 23;  // n in the exponent's place; of a very negative x it wraps, and is not used
  uint32_t value;
  std::memcpy(&value, &p, sizeof value);
  value += bits;
  float result;
  std::memcpy(&result, &value, sizeof result);
  return x < -87.0f ? 0.0f : result;
}

inline double exponential(double x) { return std::exp(x); }

}  // namespace
}  // namespace NATIVE_ISA
}  // namespace tp_parallel
