// __half for the simulator: float16 bits, rounded to nearest, ties to even, as the device's conversions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  const float sign = value.bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

inline __half __float2half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) return {0x7fff};
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(size, &exponent);
  const int scale = size == 0.0f || exponent < -13 ? -24 : exponent - 11;  // of the last bit
  // nearbyint rounds ties to even
  const int units = static_cast<int>(std::nearbyint(std::ldexp(size, -scale)));
  const int carried = scale == -24 ? 0 : (scale + 24) * 1024;  // a full mantissa carries into the exponent
  return {static_cast<uint16_t>(sign | (carried + units))};
}
