// World positions of what pixels show, in double precision.
#pragma once

#include <vector>

#include "raster/raster.h"

namespace nanite_cull {

// Of a camera. Rays are (ray_x[column], ray_y[row], -1) in its space.
struct Unprojection {
  std::vector<double> ray_x, ray_y;
  double to_world[9], eye[3];  // rows: the inverse of its linear part; where it is
  bool orthographic = false;
  double near_distance = 0, far_distance = 0;  // camera units
};

// At the pixels' centres, (height, width, 3); NaN where nothing was drawn.
void unproject(const VisibilityBuffer& buffer, const Unprojection& unprojection, float* out, int threads);

}  // namespace nanite_cull
