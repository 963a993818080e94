// What a traversal tells streaming: one word for each group, the last frame that wanted it and how much.
// A frame is a number of 16 bits, so a larger word is a later wish or, within a frame, a stronger one.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/hd.h"
#include "core/lod.h"

namespace nanite_cull {

constexpr uint32_t last_request_frame = 0xffff;  // after it all words are cleared and frames start at 1

// Pixels of error that show where a group is not expanded; 0 where it need not be. A group that is not there
// carries its error with the sign set, which to too_coarse() is fine: its parents draw.
HD inline float pixels_without(const LodView& view, const LodBounds& bounds) {
  const Sphere& s = bounds.sphere;
  const float error = magnitude(bounds.error);
  if (!too_coarse(view, s.x, s.y, s.z, s.r, error)) return 0;
  float distance = distance_to(view, s.x, s.y, s.z) - s.r;
  if (view.orthographic != 0) distance = 1;
  return error * view.error_to_pixels / most(distance, view.near_distance);
}

// The word of a wish: the frame, and the pixels as a bfloat16.
HD inline uint32_t request_word(uint32_t frame, float pixels) {
  uint32_t bits;
  memcpy(&bits, &pixels, sizeof(bits));
  return frame << 16 | bits >> 16;
}
HD inline uint32_t request_frame(uint32_t word) { return word >> 16; }
HD inline float request_pixels(uint32_t word) {
  const uint32_t bits = word << 16;
  float pixels;
  memcpy(&pixels, &bits, sizeof(pixels));
  return pixels;
}

}  // namespace nanite_cull
