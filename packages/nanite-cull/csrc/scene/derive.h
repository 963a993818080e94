// What views need of transforms, computed eight instances at a time: inverses, singular values, spheres.
#pragma once

#include <cstdint>

namespace nanite_cull {

constexpr int derived_lanes = 8;

// Component by component, an instance a lane.
struct Transforms {
  double m[12][derived_lanes];      // rows of 3x4
  double sphere[4][derived_lanes];  // of the asset: centre from its grid's origin, and radius
  double origin[3][derived_lanes];  // of the asset's grid
};
struct Derived {
  double translation[3][derived_lanes];                   // of the grid's origin, world
  float inverse[9][derived_lanes];                        // of the linear part
  float largest[derived_lanes], smallest[derived_lanes];  // singular values, bounded outward
  float centre[3][derived_lanes], radius[derived_lanes];  // of the world sphere
};

void derive(const Transforms& in, Derived& out);

// Whether all `count` transforms (count, 12) are finite and invertible, bring an asset of `reach` within
// `farthest` of the world's origin, and scale no direction by less than 1 / farthest; infinity: nothing is
// too far or small. reach: what the entries of the linear part are multiplied by, in the sum over the axes.
bool all_placeable(const double* transforms, int64_t count, double reach, double farthest);

// The determinant of the linear part.
double determinant(const double* transform);

}  // namespace nanite_cull
