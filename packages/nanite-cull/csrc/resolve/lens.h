// What a camera adds to its view, for planes and pictures.
#pragma once

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

}  // namespace nanite_cull
