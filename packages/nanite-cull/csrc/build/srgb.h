// The transfer function of sRGB (IEC 61966-2-1): between linear light and what a display is sent, both of 0
// to 1.
#pragma once

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

// (display_entries), for display_of().
inline const float* display_table() {
  struct Table {
    float at[display_entries];
    Table() {
      for (int i = 0; i <= display_bins; ++i) {
        const double light = double(i) / display_bins * i / display_bins;
        at[i] = float(light <= 0.0031308 ? 12.92 * light : 1.055 * std::pow(light, 1 / 2.4) - 0.055);
      }
      at[display_bins + 1] = at[display_bins];
    }
  };
  static const Table table;
  return table.at;
}

inline float display_of(float light) { return display_of(display_table(), light); }

}  // namespace nanite_cull
