// How much lower a pixel lies than its surroundings (Luft, Colditz and Deussen, "Image Enhancement by Unsharp
// Masking the Depth Buffer", 2006): its distance against the mean over a small square and over a large one.
//
// Sums over windows of n numbers are those of blocks of powers of two, from the smallest in n to the largest,
// each the sum of its halves; first along rows, then along columns. So host and device add in one order, and
// nothing is subtracted, so that a far pixel leaves no rounding behind.
#pragma once

#include "core/lens.h"

namespace nanite_cull {

struct HollowRadii {
  int small, large;
};

HD inline HollowRadii hollow_radii(int height) { return {most(1, height / 180), most(2, height / 45)}; }

// What a hollow is measured in: one pixel at a distance in the world, by the radius.
struct HollowScale {
  float steady, growing;

  HD HollowScale(const Lens& lens, int radius)
      : steady(lens.orthographic ? lens.pixel * float(radius) : 0.0f),
        growing(lens.orthographic ? 0.0f : lens.scale * lens.pixel * float(radius)) {}
};

// `sum` of the distances and `count` of what was drawn in the square; finite where nothing was.
HD inline float hollow_of(float distance, float sum, float count, const HollowScale& scale) {
  const float mean = sum / (count > 0 ? count : 1.0f), unit = scale.steady + distance * scale.growing;
  return (distance - mean) / (unit > 0 ? unit : 1.0f);
}

}  // namespace nanite_cull
