// The level-of-detail test, the one expression that decides every cut.
//
// Why it cannot tear: along a path from a leaf to a root the errors grow by at least 1 + 2^-16 and each
// sphere contains the one before by at least 2^-16 of its radius (build.cpp makes it so, validate.cpp
// checks it), while all rounding in this expression is below 2^-20 of its terms. So "too coarse" is
// monotone along the path in float arithmetic, from the same stored bits, for every eye and threshold.
// The eye is taken into the object's space once for each instance: no sphere is ever transformed.
// Needs -ffp-contract=off or -fmad=false (the build sets it).
#pragma once

#include <cmath>

#include "core/hd.h"
#include "core/records.h"

namespace nanite_cull {

constexpr float lod_margin = 1.0f / 65536;

// The root of the largest float. What lies beyond is seen from here, for its square is infinite: an infinite
// distance would make even the infinite error of a root's parent fine.
constexpr float farthest = 0x1.fffffep63f;

// One view of one instance, in the instance's object space.
struct LodView {
  float eye[3];
  float near_distance;    // object units
  float error_to_pixels;  // pixels of one object unit at distance one
  float threshold;        // pixels
  float orthographic;     // 1: distance does not count; 0: perspective
};

HD inline float distance_to(const LodView& view, float x, float y, float z) {
  const float dx = x - view.eye[0], dy = y - view.eye[1], dz = z - view.eye[2];
  return least(sqrtf((dx * dx + dy * dy) + dz * dz), farthest);
}

// True where `error`, seen from the nearest point of the sphere, exceeds the threshold.
HD inline bool too_coarse(const LodView& view, float x, float y, float z, float r, float error) {
  float distance = distance_to(view, x, y, z) - r;
  if (view.orthographic != 0)
    distance = 1;
  else if (!(distance > view.near_distance))
    return error > 0;
  return error * view.error_to_pixels > view.threshold * distance;
}

HD inline bool too_coarse(const LodView& view, const LodBounds& bounds) {
  const Sphere& s = bounds.sphere;
  return too_coarse(view, s.x, s.y, s.z, s.r, bounds.error);
}

// False only where every error of at least `error` inside the sphere exceeds the threshold, whatever
// point of the sphere it is seen from: then nothing below a node can be fine enough.
HD inline bool may_be_fine(const LodView& view, float x, float y, float z, float r, float error) {
  float distance = (distance_to(view, x, y, z) + r) * (1 + lod_margin);
  if (view.orthographic != 0) distance = 1;
  if (!(distance > view.near_distance)) distance = view.near_distance;
  return !(error * view.error_to_pixels > view.threshold * distance);
}

}  // namespace nanite_cull
