// Numbers of double precision by integers, for kernels: a device computes with doubles at a fraction of its
// speed, and each view of each instance needs but a few dozen operations. The bits are those of IEEE 754
// arithmetic, rounded to nearest, ties to even, so host and device agree (Hauser, "SoftFloat", 1997 to 2018,
// describes the method).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/hd.h"

namespace nanite_cull {

struct Wide {
  uint64_t bits;

  Wide() = default;
  HD explicit Wide(float x);
  HD explicit operator float() const;
  HD static constexpr Wide of(uint64_t bits) {
    Wide out{};
    out.bits = bits;
    return out;
  }

  HD uint32_t exponent() const { return bits >> 52 & 2047; }
  HD uint64_t size() const { return bits & ~(uint64_t(1) << 63); }
  HD uint64_t sign() const { return bits & uint64_t(1) << 63; }
  HD uint64_t fraction() const { return bits & ((uint64_t(1) << 52) - 1); }
  // The number is units() * 2^(place() - 1075).
  HD uint64_t units() const { return fraction() | (exponent() ? uint64_t(1) << 52 : 0); }
  HD int place() const { return exponent() ? static_cast<int>(exponent()) : 1; }
  HD Wide operator-() const { return of(bits ^ uint64_t(1) << 63); }
};
static_assert(sizeof(Wide) == 8, "in memory what the host has");

constexpr uint64_t wide_infinity = uint64_t(2047) << 52, wide_nan = wide_infinity | uint64_t(1) << 51;

HD inline int leading_bit(uint64_t x) {  // of x > 0
#if defined(__CUDA_ARCH__)
  return 63 - __clzll(static_cast<long long>(x));
#else
  return 63 - __builtin_clzll(x);
#endif
}

// x / 2^n; what falls off leaves a one in the last place.
HD inline uint64_t shifted_right(uint64_t x, int n) {
  if (n <= 0) return x;
  if (n > 63) return x != 0;
  return x >> n | (x << (64 - n) != 0);
}

// sig * 2^(place - 1085), rounded; bit 62 of sig is its first.
HD inline Wide rounded(uint64_t sign, int place, uint64_t sig) {
  if (place >= 2047) return Wide::of(sign | wide_infinity);
  const bool subnormal = place < 1;
  if (subnormal) sig = shifted_right(sig, 1 - place);
  const uint64_t rest = sig & 1023;
  sig = (sig >> 10) + (rest > 512 || (rest == 512 && (sig >> 10 & 1)));
  // the first bit adds itself to the exponent
  return Wide::of(sign | (sig + (subnormal ? 0 : static_cast<uint64_t>(place - 1) << 52)));
}

HD inline Wide operator+(Wide a, Wide b) {
  if (a.size() < b.size()) {
    const Wide other = a;
    a = b, b = other;
  }
  if (a.exponent() == 2047) {  // infinite or no number, and perhaps both are
    const bool no_number = a.fraction() != 0 || (b.size() == a.size() && a.sign() != b.sign());
    return no_number ? Wide::of(wide_nan) : a;
  }
  const uint64_t x = a.units() << 9, y = shifted_right(b.units() << 9, a.place() - b.place());
  const uint64_t sum = a.sign() == b.sign() ? x + y : x - y;
  if (sum == 0) return Wide::of(a.sign() & b.sign());
  const int first = leading_bit(sum);
  return rounded(a.sign(), a.place() + first - 61, sum << (62 - first));
}

HD inline Wide operator-(Wide a, Wide b) { return a + -b; }

HD inline Wide operator*(Wide a, Wide b) {
  const uint64_t sign = a.sign() ^ b.sign();
  if (a.exponent() == 2047 || b.exponent() == 2047) {
    const bool no_number =
        a.size() > wide_infinity || b.size() > wide_infinity || a.size() == 0 || b.size() == 0;
    return Wide::of(no_number ? wide_nan : sign | wide_infinity);
  }
  if (a.size() == 0 || b.size() == 0) return Wide::of(sign);
  const int up_a = 52 - leading_bit(a.units()), up_b = 52 - leading_bit(b.units());
  const unsigned __int128 product = static_cast<unsigned __int128>(a.units() << up_a) * (b.units() << up_b);
  const bool high = product >> 105 != 0;
  const uint64_t sig = static_cast<uint64_t>(product >> (42 + high)) |
                       ((product & ((static_cast<unsigned __int128>(1) << (42 + high)) - 1)) != 0);
  return rounded(sign, a.place() - up_a + b.place() - up_b - 1023 + high, sig);
}

HD inline bool operator<(Wide a, Wide b) {
  if (a.size() > wide_infinity || b.size() > wide_infinity) return false;
  if (a.sign() != b.sign()) return a.sign() && (a.size() | b.size()) != 0;
  return a.sign() ? b.size() < a.size() : a.size() < b.size();
}

HD inline Wide::Wide(float x) {
  uint32_t word;
  memcpy(&word, &x, 4);
  const uint64_t sign = static_cast<uint64_t>(word >> 31) << 63;
  const uint32_t place = word >> 23 & 255;
  const uint64_t part = word & 0x7fffff;
  if (place == 255)
    bits = part ? wide_nan : sign | wide_infinity;
  else if (place > 0)
    bits = sign | (uint64_t(place + 896) << 52 | part << 29);
  else if (part == 0)
    bits = sign;
  else
    bits = rounded(sign, 874 + leading_bit(part), part << (62 - leading_bit(part))).bits;
}

HD inline Wide::operator float() const {
  uint32_t word = static_cast<uint32_t>(sign() >> 32);
  if (size() > wide_infinity) {
    word = 0x7fc00000;
  } else if (const int at = place() - 896; at >= 255) {
    word |= 0x7f800000;
  } else if (exponent() > 0) {  // smaller ones are nothing in float
    const uint64_t sig = at < 1 ? shifted_right(units() << 10, 1 - at) : units() << 10;
    const uint64_t half = uint64_t(1) << 38, rest = sig & (2 * half - 1), kept = sig >> 39;
    const uint64_t whole = kept + (rest > half || (rest == half && (kept & 1)));
    word |= static_cast<uint32_t>(whole + (at < 1 ? 0 : static_cast<uint64_t>(at - 1) << 23));
  }
  float out;
  memcpy(&out, &word, 4);
  return out;
}

}  // namespace nanite_cull
