// The transfer function of sRGB (IEC 61966-2-1): between linear light and what a display is sent, both of 0
// to 1.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/srgb.h"

namespace nanite_cull {

inline double exact_light(double display) {
  return display <= 0.04045 ? display / 12.92 : std::pow((display + 0.055) / 1.055, 2.4);
}

// (light_entries), for light_of().
inline const float* light_table() {
  struct Table {
    float at[light_entries];
    Table() {
      for (int i = 0; i <= light_bins; ++i) at[i] = float(exact_light(double(i) / light_bins));
      at[light_bins + 1] = at[light_bins];
    }
  };
  static const Table table;
  return table.at;
}

// The other way: its value by the root, where it bends least.
class Display {
 public:
  Display() {
    for (int i = 0; i <= bins; ++i) {
      const double light = double(i) / bins * i / bins;
      at_[i] = float(light <= 0.0031308 ? 12.92 * light : 1.055 * std::pow(light, 1 / 2.4) - 0.055);
    }
    at_[bins + 1] = at_[bins];
  }
  float of(float light) const {
    const float root = std::sqrt(std::clamp(light, 0.0f, 1.0f)) * bins;
    const int bin = static_cast<int>(root);
    return at_[bin] + (root - float(bin)) * (at_[bin + 1] - at_[bin]);
  }

 private:
  static constexpr int bins = 1024;
  float at_[bins + 2];
};

inline float display_of(float light) {
  static const Display display;
  return display.of(light);
}

}  // namespace nanite_cull
