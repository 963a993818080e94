// What a display is sent (sRGB, IEC 61966-2-1) as linear light, by a table: the same bits on host and device,
// which powers would not have.
#pragma once

#include <cmath>

#include "core/hd.h"

namespace nanite_cull {

constexpr int light_bins = 1020;  // four to a byte's step: within 1.5e-7, at bytes within rounding
constexpr int light_entries = light_bins + 2;  // of build/srgb.h; the last two are one

HD inline float light_of(const float* table, float display) {
  const float at = (display > 0 ? least(display, 1.0f) : 0.0f) * light_bins;
  const int bin = static_cast<int>(at);
  return table[bin] + (at - float(bin)) * (table[bin + 1] - table[bin]);
}

constexpr int display_bins = 1024;
constexpr int display_entries = display_bins + 2;  // of build/srgb.h; the last two are one

// The other way: its value by the root, where it bends least.
HD inline float display_of(const float* table, float light) {
  const float root = sqrtf(least(most(light, 0.0f), 1.0f)) * display_bins;
  const int bin = static_cast<int>(root);
  return table[bin] + (root - float(bin)) * (table[bin + 1] - table[bin]);
}

}  // namespace nanite_cull
