// A triangle against the near plane and the guard band (Sutherland and Hodgman, "Reentrant Polygon
// Clipping", 1974).
#pragma once

#include "core/projection.h"

namespace nanite_cull {

constexpr int max_clipped_corners = 10;  // 3, one more for each of 5 planes, and room

// Clips a polygon in place by plane . v >= 0. A crossing is computed from its inner end, so two triangles
// that share an edge get the same point. `out` holds max_clipped_corners in between.
HD inline int clip_by(const float* plane, ClipVertex* polygon, int count, ClipVertex* out) {
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    const ClipVertex &a = polygon[i], &b = polygon[i + 1 == count ? 0 : i + 1];
    const float da = ((plane[0] * a.x + plane[1] * a.y) + plane[2] * a.z) + plane[3] * a.w;
    const float db = ((plane[0] * b.x + plane[1] * b.y) + plane[2] * b.z) + plane[3] * b.w;
    if (da >= 0) out[kept++] = a;
    if ((da >= 0) == (db >= 0)) continue;
    const ClipVertex &in = da >= 0 ? a : b, &far = da >= 0 ? b : a;
    const float d_in = da >= 0 ? da : db, d_far = da >= 0 ? db : da, t = d_in / (d_in - d_far);
    out[kept++] = {in.x + t * (far.x - in.x), in.y + t * (far.y - in.y), in.z + t * (far.z - in.z),
                   in.w + t * (far.w - in.w)};
  }
  for (int i = 0; i < kept; ++i) polygon[i] = out[i];
  return kept;
}

HD inline bool before(const ClipVertex& a, const ClipVertex& b) {
  if (a.x != b.x) return a.x < b.x;
  if (a.y != b.y) return a.y < b.y;
  if (a.z != b.z) return a.z < b.z;
  return a.w < b.w;
}

// The fan of fixed-point corners that a triangle becomes, or 0. `polygon` holds its three corners; all three
// arrays have room for max_clipped_corners.
HD inline int clip_triangle(const Screen& screen, ClipVertex* polygon, ClipVertex* scratch,
                            FixedVertex* fixed) {
  // the same fan whichever corner the triangle is stored from
  int first = 0;
  for (int i = 1; i < 3; ++i)
    if (before(polygon[i], polygon[first])) first = i;
  for (; first > 0; --first) {
    const ClipVertex head = polygon[0];
    polygon[0] = polygon[1], polygon[1] = polygon[2], polygon[2] = head;
  }
  // the guard band in clip space, safely inside fixed_limit
  const float gx = float(fixed_limit) / (2 * screen.half_x), gy = float(fixed_limit) / (2 * screen.half_y);
  int count = 3;
  for (int i = 0; i < 5 && count >= 3; ++i) {
    const float side = i % 2 ? -1 : 1;
    const float plane[4] = {i == 1 || i == 2 ? side : 0, i > 2 ? side : 0, i == 0 ? -1.0f : 0,
                            i == 0  ? 1
                            : i < 3 ? gx
                                    : gy};
    count = clip_by(plane, polygon, count, scratch);
  }
  if (count < 3) return 0;
  for (int i = 0; i < count; ++i) {
    // a crossing computed on the near plane may fall behind it by its rounding
    polygon[i].z = least(polygon[i].z, polygon[i].w);
    if (!screen.project(polygon[i], fixed[i])) return 0;
  }
  return count;
}

}  // namespace nanite_cull
