// What a camera adds to its view, for pixels: float32 about the eye, so that nothing is lost far from the
// world's origin. A pixel's place is as exact as its depth.
#pragma once

#include <cmath>

#include "core/hd.h"

namespace nanite_cull {

// Rays are (ray_x[column], ray_y[row], -1) in the camera's space.
struct Lens {
  float rotation[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};  // world to camera, rows, of length one
  float to_world[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};  // rows: the inverse of the camera's linear part
  const float* ray_x = nullptr;
  const float* ray_y = nullptr;
  bool orthographic = false;
  float near_distance = 0, far_distance = 0, extent = 0;  // camera units; extent: far - near
  float scale = 1;                                        // camera units in one of the world
  float pixel = 1;  // world: of one pixel's height at distance one (perspective) or anywhere (orthographic)
};

// Distance along the axis of what was drawn, camera units.
HD inline float along_axis(const Lens& lens, float depth) {
  return lens.orthographic ? lens.far_distance - depth * lens.extent : lens.near_distance / depth;
}

// The same in units of the world; zero where nothing was drawn.
HD inline float distance_of(const Lens& lens, float depth) {
  return depth > 0 ? along_axis(lens, depth) / lens.scale : 0.0f;
}

// Unit vector in the world from what a pixel shows towards the eye.
HD inline void towards_eye(const Lens& lens, int x, int y, float* out) {
  const float* r = lens.rotation;
  float a = 0, b = 0, c = 1;
  if (!lens.orthographic) {
    a = -lens.ray_x[x], b = -lens.ray_y[y];
    c = 1 / sqrtf(a * a + b * b + 1);
    a *= c, b *= c;
  }
  for (int i = 0; i < 3; ++i) out[i] = a * r[i] + b * r[3 + i] + c * r[6 + i];
}

// Where in the world a pixel's depth lies, seen from the eye.
HD inline void from_eye(const Lens& lens, int x, int y, float depth, float* out) {
  const float along = along_axis(lens, depth), across = lens.orthographic ? 1 : along;
  const float ray[3] = {across * lens.ray_x[x], across * lens.ray_y[y], -along}, *m = lens.to_world;
  for (int i = 0; i < 3; ++i) out[i] = (ray[0] * m[3 * i] + ray[1] * m[3 * i + 1]) + ray[2] * m[3 * i + 2];
}

}  // namespace nanite_cull
