// Whether a box is hidden behind a hierarchical depth buffer (Greene, Kass and Miller, "Hierarchical Z-Buffer
// Visibility", 1993).
//
// Why it never hides a pixel that would be drawn: the box's corners are projected by the expressions that
// project its vertices, and rectangle and depth are widened by more than all rounding of both. A box that
// may cross the near plane or the guard band, where triangles are clipped, is never hidden. Depth at a pixel
// is clamped to a triangle's corners (core/fixed_triangle.h), so the box's nearest corner bounds it; equal
// depths are not hidden, for they are decided by ids. A node is widened three times as far as a cluster: so
// no rounding hides a node around a cluster that is not hidden itself, and what is drawn does not depend on
// the tree.
#pragma once

#include "core/hzb_layout.h"
#include "core/projection.h"

namespace nanite_cull {

constexpr int max_hzb_levels = 14;  // of an image of 16384 pixels

// A pyramid of farthest depths (reversed Z: the smallest). No levels: an empty one, which hides nothing.
struct Hzb {
  int width = 0, height = 0, levels = 0;
  const float* level[max_hzb_levels] = {};
};

// One instance in the view that a pyramid was made with.
struct OcclusionView {
  float to_clip[16];  // rows; object to clip, the bits that the raster uses
  float slack[4];     // what x, y, z and w in clip space can lose by rounding
  float half_x, half_y;
};

constexpr float cluster_widening = 1, node_widening = 3;
constexpr float clip_slack = 1e-6f;       // what a sum of four products loses in relation to its terms, twice
constexpr float pixel_slack = 1.0f / 64;  // snapping to sub-pixels
constexpr float guard_pixels = 1 << 19;   // half of what fixed point holds

// What of the two passes remains for a box. Main pass: `seen` where the last frame does not hide it. Post
// pass: `hidden` where the new depth hides it; else `seen` where the main pass went on with it, `missed`
// where it did not.
enum class Sight { hidden, seen, missed };

// Lanes [0, 8) to one value.
HD inline float least_of(float* lane) {
  for (int step = 4; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lane[i] = least(lane[i], lane[i + step]);
  return lane[0];
}
HD inline float most_of(float* lane) {
  for (int step = 4; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lane[i] = most(lane[i], lane[i + step]);
  return lane[0];
}

// The pixels whose centres may lie in [low, high] of normalised device coordinates, widened; false when that
// reaches the guard band.
HD inline bool pixel_range(float low, float high, float half, int pixels, float error, float widening,
                           int& first, int& last) {
  const float a = low * half + half, b = high * half + half;
  const float reach = most(magnitude(a), magnitude(b));
  const float pad = widening * ((error * half + clip_slack * reach) + pixel_slack);
  if (!(reach + pad < guard_pixels)) return false;
  first = most(0, static_cast<int>(ceilf((a - pad) - 0.5f)));
  last = least(pixels - 1, static_cast<int>(floorf((b + pad) - 0.5f)));
  return true;
}

HD inline bool occluded(const OcclusionView& view, const Hzb& hzb, const float* lo, const float* hi,
                        float widening) {
  if (hzb.levels == 0) return false;
  float clip[4][8];
  for (int row = 0; row < 4; ++row) {
    const float* m = view.to_clip + 4 * row;
    for (int i = 0; i < 8; ++i)
      clip[row][i] = ((m[0] * (i & 1 ? hi[0] : lo[0]) + m[1] * (i & 2 ? hi[1] : lo[1])) +
                      m[2] * (i & 4 ? hi[2] : lo[2])) +
                     m[3];
  }
  float x_low[8], x_high[8], y_low[8], y_high[8], near_most[8], depth[8];
  for (int i = 0; i < 8; ++i) {
    const float inverse = 1 / clip[3][i];
    x_low[i] = x_high[i] = clip[0][i] * inverse;
    y_low[i] = y_high[i] = -(clip[1][i] * inverse);
    depth[i] = clip[2][i] * inverse;
    near_most[i] = clip[2][i];
  }
  const float w = least_of(clip[3]) - view.slack[3];
  if (!(w > 0 && most_of(near_most) + view.slack[2] <= w)) return false;
  const float left = least_of(x_low), right = most_of(x_high), top = least_of(y_low),
              bottom = most_of(y_high);
  const float across = most(magnitude(left), magnitude(right)),
              down = most(magnitude(top), magnitude(bottom));
  int x0, x1, y0, y1;
  if (!pixel_range(left, right, view.half_x, hzb.width, (view.slack[0] + across * view.slack[3]) / w,
                   widening, x0, x1) ||
      !pixel_range(top, bottom, view.half_y, hzb.height, (view.slack[1] + down * view.slack[3]) / w, widening,
                   y0, y1))
    return false;
  if (x0 > x1 || y0 > y1) return true;
  float nearest = most_of(depth);
  nearest +=
      widening * ((view.slack[2] + magnitude(nearest) * view.slack[3]) / w + clip_slack * magnitude(nearest));
  const int level = hzb_level(x0, y0, x1, y1), shift = level + 1, pitch = hzb_size(hzb.width, level);
  for (int y = y0 >> shift; y <= y1 >> shift; ++y)
    for (int x = x0 >> shift; x <= x1 >> shift; ++x)
      if (!(nearest < hzb.level[level][int64_t(y) * pitch + x])) return false;
  return true;
}

}  // namespace nanite_cull
