// bfloat16 as its bits, widened to float for arithmetic. Shared by CPU, CUDA and the simulator.
#pragma once

#include <cstdint>
#include <cstring>

#include "native/device.h"

namespace tp_parallel {

struct BFloat16 {
  uint16_t bits;
};

HD float widen(float x) { return x; }
HD double widen(double x) { return x; }
HD float widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

HD void narrow(float x, float& out) { out = x; }
HD void narrow(double x, double& out) { out = x; }
// Round to nearest, ties to even; a NaN stays one.
HD void narrow(float x, BFloat16& out) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}

}  // namespace tp_parallel
