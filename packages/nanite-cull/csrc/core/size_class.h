// Small or large: which rasteriser draws a cluster (Karis et al. 2021).
#pragma once

#include <cmath>

#include "core/hd.h"
#include "core/lod.h"

namespace nanite_cull {

// A triangle edge longer than this many pixels makes its cluster a large one.
constexpr float large_edge_pixels = 32;

// True where an edge may be long on the screen, or the box may cross the near plane.
HD inline bool is_large(const LodView& lod, const float* lo, const float* hi, float longest_edge) {
  float square = 0;
  for (int a = 0; a < 3; ++a) {
    const float gap = most(most(lo[a] - lod.eye[a], lod.eye[a] - hi[a]), 0.0f);
    square += gap * gap;
  }
  // 2: the near plane is nearer to a box at the image's edge than its distance from the eye tells
  const float distance = lod.orthographic != 0 ? 1 : sqrtf(square);
  if (lod.orthographic == 0 && !(distance > 2 * lod.near_distance)) return true;
  return longest_edge * lod.error_to_pixels > large_edge_pixels * distance;
}

}  // namespace nanite_cull
