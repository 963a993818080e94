// Attributes at a pixel: perspective-correct weights from the corners in clip space (Olano and Greer,
// "Triangle Scan Conversion using 2D Homogeneous Coordinates", 1997), taken about the pixel's centre, so that
// float32 does for triangles of any size.
#pragma once

#include "core/hd.h"
#include "core/projection.h"

namespace nanite_cull {

// `x` and `y`: the pixel's centre in normalised device coordinates.
HD inline void perspective_weights(const ClipVertex* corner, float x, float y, float* weight) {
  float px[3], py[3];
  for (int k = 0; k < 3; ++k) {
    px[k] = corner[k].x - x * corner[k].w;
    py[k] = corner[k].y - y * corner[k].w;
  }
  float sum = 0;
  for (int k = 0; k < 3; ++k) {
    const int i = k == 2 ? 0 : k + 1, j = k == 0 ? 2 : k - 1;
    weight[k] = px[i] * py[j] - px[j] * py[i];
    sum += weight[k];
  }
  for (int k = 0; k < 3; ++k) weight[k] = sum != 0 ? weight[k] / sum : 1.0f / 3;
}

}  // namespace nanite_cull
