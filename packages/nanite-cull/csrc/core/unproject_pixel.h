// Where in the world a pixel's depth lies, of numbers that hold the world: doubles on the host, Wide in a
// kernel, with the same bits.
#pragma once

#include "core/hd.h"

namespace nanite_cull {

// Of a camera. Rays are (ray_x[column], ray_y[row], -1) in its space.
template <class Real>
struct BasicUnprojection {
  const Real *ray_x, *ray_y;
  Real to_world[9], eye[3];  // rows: the inverse of its linear part; where it is
  bool orthographic;
  Real near_distance, far_distance;  // camera units
};

// Coordinate `axis` of a ray that ends `along` the axis, `x` and `y` across.
template <class Real>
HD inline float coordinate(const BasicUnprojection<Real>& camera, int axis, Real x, Real y, Real along) {
  const Real* m = camera.to_world + 3 * axis;
  return static_cast<float>(((x * m[0] + y * m[1]) + along * m[2]) + camera.eye[axis]);
}

// No loops: what a loop indexes would lie in a device's local memory.
template <class Real>
HD inline void place_of(const BasicUnprojection<Real>& camera, int px, int py, float depth, float* out) {
  const float distance = camera.orthographic
                             ? static_cast<float>(camera.far_distance -
                                                  Real(depth) * (camera.far_distance - camera.near_distance))
                             : static_cast<float>(camera.near_distance) / depth;
  const Real across(camera.orthographic ? 1.0f : distance);
  const Real x = across * camera.ray_x[px], y = across * camera.ray_y[py], along = -Real(distance);
  out[0] = coordinate(camera, 0, x, y, along);
  out[1] = coordinate(camera, 1, x, y, along);
  out[2] = coordinate(camera, 2, x, y, along);
}

}  // namespace nanite_cull
