// One triangle in fixed point: what is inside, and how deep it is there. Everything that decides a pixel
// is in this file, so that every path (small, large, one tile or another, any thread) draws the same.
//
// Coordinates have 8 sub-pixel bits; a pixel is inside where its centre is, and on an edge where the edge
// is a top or a left one (the top-left rule of Direct3D and Vulkan). Depth is a plane through the three
// corners, evaluated at the pixel by one fixed float expression from a reference pixel.
#pragma once

#include <algorithm>
#include <cstdint>

namespace nanite_cull {

constexpr int subpixel_bits = 8;
constexpr int subpixels = 1 << subpixel_bits;
constexpr int32_t fixed_limit = 1 << 28;   // coordinates beyond are clipped: edge products stay below 2^60
constexpr int32_t small_extent = 1 << 14;  // triangles up to 64 pixels: edge values fit 32 bits

struct FixedVertex {
  int32_t x, y;  // y down
  float z;       // depth, reversed: larger is nearer
};

struct FixedTriangle {
  int32_t x[3], y[3];
  int32_t px0, py0, px1, py1;  // pixels whose centres the bounding box holds, both ends included
  int32_t reference_x, reference_y;
  float z, dzdx, dzdy, z_min, z_max;  // depth at the reference pixel, its steps, and its range
  bool small;

  // Depth at a pixel: the same operations in the same order everywhere.
  float depth(int px, int py) const {
    const float column = z + float(px - reference_x) * dzdx;
    return std::min(std::max(column + float(py - reference_y) * dzdy, z_min), z_max);
  }

  // Edge i at a pixel's centre, with the top-left rule folded in: inside where all three are >= 0.
  int64_t edge(int i, int px, int py) const {
    const int j = i == 2 ? 0 : i + 1;
    const int64_t dx = int64_t(x[j]) - x[i], dy = int64_t(y[j]) - y[i];
    const int64_t cx = int64_t(px) * subpixels + subpixels / 2, cy = int64_t(py) * subpixels + subpixels / 2;
    const bool top_left = dy < 0 || (dy == 0 && dx > 0);
    return dx * (cy - y[i]) - dy * (cx - x[i]) - (top_left ? 0 : 1);
  }
};

// Prepares a triangle for the pixels of [x0, x1) x [y0, y1); false when it covers none of their centres
// for sure, has no area, or turns its back (front: counter-clockwise on the screen) and backs are culled.
inline bool set_up(const FixedVertex& a, const FixedVertex& b, const FixedVertex& c, int x0, int y0, int x1,
                   int y1, int width, int height, bool cull_back, FixedTriangle& out) {
  const int32_t lo_x = std::min({a.x, b.x, c.x}), hi_x = std::max({a.x, b.x, c.x});
  const int32_t lo_y = std::min({a.y, b.y, c.y}), hi_y = std::max({a.y, b.y, c.y});
  out.px0 = std::max(x0, (lo_x + subpixels / 2 - 1) >> subpixel_bits);
  out.px1 = std::min(x1 - 1, (hi_x - subpixels / 2) >> subpixel_bits);
  out.py0 = std::max(y0, (lo_y + subpixels / 2 - 1) >> subpixel_bits);
  out.py1 = std::min(y1 - 1, (hi_y - subpixels / 2) >> subpixel_bits);
  if (out.px0 > out.px1 || out.py0 > out.py1) return false;

  const int64_t area =
      (int64_t(b.x) - a.x) * (int64_t(c.y) - a.y) - (int64_t(c.x) - a.x) * (int64_t(b.y) - a.y);
  if (area == 0 || (cull_back && area > 0)) return false;
  // Clockwise on the screen (y down), the first corner the topmost, leftmost one: a triangle gives the
  // same plane whichever corner it is stored from.
  const FixedVertex* v[3] = {&a, area > 0 ? &b : &c, area > 0 ? &c : &b};
  int first = 0;
  for (int i = 1; i < 3; ++i)
    if (v[i]->y < v[first]->y || (v[i]->y == v[first]->y && v[i]->x < v[first]->x)) first = i;
  const FixedVertex &p = *v[first], &q = *v[first == 2 ? 0 : first + 1], &r = *v[first == 0 ? 2 : first - 1];
  out.x[0] = p.x, out.x[1] = q.x, out.x[2] = r.x;
  out.y[0] = p.y, out.y[1] = q.y, out.y[2] = r.y;
  out.small = hi_x - lo_x < small_extent && hi_y - lo_y < small_extent;

  const double inverse = double(subpixels) / double(area < 0 ? -area : area);
  const double zq = double(q.z) - p.z, zr = double(r.z) - p.z;
  const double dzdx = (zq * double(r.y - p.y) - zr * double(q.y - p.y)) * inverse;
  const double dzdy = (zr * double(q.x - p.x) - zq * double(r.x - p.x)) * inverse;
  out.reference_x = std::clamp(p.x >> subpixel_bits, 0, width - 1);
  out.reference_y = std::clamp(p.y >> subpixel_bits, 0, height - 1);
  const double off_x = out.reference_x + 0.5 - double(p.x) / subpixels,
               off_y = out.reference_y + 0.5 - double(p.y) / subpixels;
  out.z = static_cast<float>(p.z + dzdx * off_x + dzdy * off_y);
  out.dzdx = static_cast<float>(dzdx);
  out.dzdy = static_cast<float>(dzdy);
  out.z_min = std::min({a.z, b.z, c.z});
  out.z_max = std::max({a.z, b.z, c.z});
  return true;
}

}  // namespace nanite_cull
