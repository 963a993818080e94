// From object space to fixed-point pixels: one order of operations for every vertex of every path, so that
// equal positions give equal pixels.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/fixed_triangle.h"
#include "core/hd.h"

namespace nanite_cull {

constexpr int32_t unprojectable = INT32_MIN;  // x of a vertex behind the near plane or far outside

struct ClipVertex {
  float x, y, z, w;
};

// `m`: 4x4 in rows.
HD inline ClipVertex to_clip(const float* m, const float* p) {
  return {((m[0] * p[0] + m[1] * p[1]) + m[2] * p[2]) + m[3],
          ((m[4] * p[0] + m[5] * p[1]) + m[6] * p[2]) + m[7],
          ((m[8] * p[0] + m[9] * p[1]) + m[10] * p[2]) + m[11],
          ((m[12] * p[0] + m[13] * p[1]) + m[14] * p[2]) + m[15]};
}

struct ImageSize {
  int width, height;
};

// The pixel grid of one image.
struct Screen {
  int width, height;
  float half_x, half_y;  // sub-pixels

  HD Screen(int w, int h)
      : width(w), height(h), half_x(w * (subpixels / 2.0f)), half_y(h * (subpixels / 2.0f)) {}

  // False where the vertex must be clipped first: nearer than the near plane, or beyond the fixed range.
  HD bool project(const ClipVertex& v, FixedVertex& out) const {
    const float inverse = 1 / v.w;
    const float x = (v.x * inverse) * half_x + half_x, y = half_y - (v.y * inverse) * half_y;
    const float limit = float(fixed_limit);
    if (!(v.w > 0 && v.z <= v.w && magnitude(x) < limit && magnitude(y) < limit)) {
      out.x = unprojectable;
      return false;
    }
    out.x = static_cast<int32_t>(rintf(x));  // to even, on both
    out.y = static_cast<int32_t>(rintf(y));
    out.z = v.z * inverse;
    return true;
  }
};

}  // namespace nanite_cull
