// Attributes at a pixel: perspective-correct weights from the corners in clip space (Olano and Greer,
// "Triangle Scan Conversion using 2D Homogeneous Coordinates", 1997), taken about the pixel's centre, so that
// float32 does for triangles of any size.
#pragma once

#include "core/hd.h"
#include "core/projection.h"
#include "core/texture.h"

namespace nanite_cull {

// The centre of a pixel in normalised device coordinates.
HD inline float centre_x(int px, int width) { return (float(px) + 0.5f) / float(width) * 2 - 1; }
HD inline float centre_y(int py, int height) { return 1 - (float(py) + 0.5f) / float(height) * 2; }

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

// Texture coordinates at a pixel and their derivatives, in closed form: weights are linear in the pixel
// before they are divided by their sum. `uv`: of the corners, v down.
HD inline Footprint footprint(const ClipVertex* corner, const float (*uv)[2], int px, int py, int width,
                              int height) {
  const float x = centre_x(px, width), y = centre_y(py, height);
  float ox[3], oy[3];
  for (int k = 0; k < 3; ++k) {
    ox[k] = corner[k].x - x * corner[k].w;
    oy[k] = corner[k].y - y * corner[k].w;
  }
  float weight[3], by_x[3], by_y[3], sum = 0;
  for (int k = 0; k < 3; ++k) {
    const int i = k == 2 ? 0 : k + 1, j = k == 0 ? 2 : k - 1;
    weight[k] = ox[i] * oy[j] - ox[j] * oy[i];
    by_x[k] = corner[j].w * oy[i] - corner[i].w * oy[j];
    by_y[k] = corner[i].w * ox[j] - corner[j].w * ox[i];
    sum += weight[k];
  }
  Footprint out;
  if (!(sum != 0)) {
    out.u = uv[0][0], out.v = uv[0][1];
    for (int a = 0; a < 2; ++a) out.right[a] = out.below[a] = 0;
    return out;
  }
  float at[2];
  for (int a = 0; a < 2; ++a) {
    const float to_second = uv[1][a] - uv[0][a], to_third = uv[2][a] - uv[0][a];
    const float off = weight[1] / sum * to_second + weight[2] / sum * to_third;  // from the first corner
    at[a] = uv[0][a] + off;
    const float along_x = -by_x[0] * off + by_x[1] * (to_second - off) + by_x[2] * (to_third - off);
    const float along_y = -by_y[0] * off + by_y[1] * (to_second - off) + by_y[2] * (to_third - off);
    out.right[a] = along_x / sum * (2 / float(width));
    out.below[a] = along_y / sum * (-2 / float(height));
  }
  out.u = at[0], out.v = at[1];
  return out;
}

}  // namespace nanite_cull
