// What a camera adds to its view, for planes and pictures.
#pragma once

#include <cmath>

namespace nanite_cull {

// Rays are (ray_x[column], ray_y[row], -1) in the camera's space.
struct Lens {
  float rotation[9];  // world to camera, rows
  const double* ray_x = nullptr;
  const double* ray_y = nullptr;
  bool orthographic = false;
  double near_distance = 0, far_distance = 0;  // camera units
  double scale = 1;                            // camera units in one of the world
  double pixel = 1;  // world: of one pixel's height at distance one (perspective) or anywhere (orthographic)
};

// Distance along the axis, camera units; zero where nothing was drawn.
inline double along_axis(const Lens& lens, float depth) {
  if (!(depth > 0)) return 0;
  return lens.orthographic ? float(lens.far_distance - depth * (lens.far_distance - lens.near_distance))
                           : float(lens.near_distance) / depth;
}

// Unit vector in the world from what a pixel shows towards the eye.
inline void towards_eye(const Lens& lens, int x, int y, float* out) {
  const float* r = lens.rotation;
  float a = 0, b = 0, c = 1;
  if (!lens.orthographic) {
    a = -float(lens.ray_x[x]), b = -float(lens.ray_y[y]);
    c = 1 / std::sqrt(a * a + b * b + 1);
    a *= c, b *= c;
  }
  for (int i = 0; i < 3; ++i) out[i] = a * r[i] + b * r[3 + i] + c * r[6 + i];
}

// Where in the world a pixel's depth lies. `to_world`: rows, the inverse of the camera's linear part.
inline void unproject_pixel(const Lens& lens, const double* to_world, const double* eye, int x, int y,
                            float depth, double* out) {
  const double along = along_axis(lens, depth), across = lens.orthographic ? 1 : along;
  const double ray[3] = {across * lens.ray_x[x], across * lens.ray_y[y], -along};
  const double* m = to_world;
  for (int i = 0; i < 3; ++i)
    out[i] = ((ray[0] * m[3 * i] + ray[1] * m[3 * i + 1]) + ray[2] * m[3 * i + 2]) + eye[i];
}

}  // namespace nanite_cull
