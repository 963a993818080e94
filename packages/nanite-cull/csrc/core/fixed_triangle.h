// One triangle in fixed point: what is inside, and how deep it is there. Everything that decides a pixel
// is in this file, so that every path (small, large, one tile or another, any thread) draws the same.
//
// Coordinates have 8 sub-pixel bits; a pixel is inside where its centre is, and on an edge where the edge
// is a top or a left one (the top-left rule of Direct3D and Vulkan). Depth is a plane through the three
// corners: its steps come from exact integers, rounded once, and it is evaluated at the pixel by one fixed
// float expression from a reference pixel.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/hd.h"

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
  HD float depth(int px, int py) const {
    const float column = z + float(px - reference_x) * dzdx;
    return least(most(column + float(py - reference_y) * dzdy, z_min), z_max);
  }

  // Edge i at a pixel's centre, with the top-left rule folded in: inside where all three are >= 0.
  HD int64_t edge(int i, int px, int py) const {
    const int j = i == 2 ? 0 : i + 1;
    const int64_t dx = int64_t(x[j]) - x[i], dy = int64_t(y[j]) - y[i];
    const int64_t cx = int64_t(px) * subpixels + subpixels / 2, cy = int64_t(py) * subpixels + subpixels / 2;
    const bool top_left = dy < 0 || (dy == 0 && dx > 0);
    return dx * (cy - y[i]) - dy * (cx - x[i]) - (top_left ? 0 : 1);
  }
};

// A 128-bit integer as a float: its 62 leading bits, truncated, then rounded once.
HD inline float to_float(__int128 value) {
  const bool negative = value < 0;
  auto bits = static_cast<unsigned __int128>(negative ? -value : value);
  float scale = 1;
  while (bits >> 62 != 0) bits >>= 16, scale *= 65536.0f;
  const float size = float(static_cast<int64_t>(bits)) * scale;
  return negative ? -size : size;
}

// 2^(e - 23) for a positive normal float of exponent e: in units of that, the float is an integer of 24 bits.
HD inline float unit_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t exponent = bits >> 23;
  bits = (exponent > 24 ? exponent - 23 : 1) << 23;
  memcpy(&x, &bits, 4);
  return x;
}

constexpr float flat = 0x1p-100f;  // depths nearer to each other than this are one

// The depth plane of a triangle whose corners p, q, r turn clockwise and whose doubled area is `area`.
HD inline void depth_plane(const FixedVertex& p, const FixedVertex& q, const FixedVertex& r, int64_t area,
                           FixedTriangle& out) {
  const float zq = q.z - p.z, zr = r.z - p.z, range = most(magnitude(zq), magnitude(zr));
  if (!(range > flat)) {
    out.z = p.z, out.dzdx = out.dzdy = 0;
    return;
  }
  const float unit = unit_of(range), inverse = 1 / unit;  // powers of two
  const int64_t q_units = static_cast<int64_t>(zq * inverse), r_units = static_cast<int64_t>(zr * inverse);
  const int64_t step_x = q_units * (int64_t(r.y) - p.y) - r_units * (int64_t(q.y) - p.y);
  const int64_t step_y = r_units * (int64_t(q.x) - p.x) - q_units * (int64_t(r.x) - p.x);
  const float whole = float(area);
  out.dzdx = (float(step_x) / whole) * (subpixels * unit);
  out.dzdy = (float(step_y) / whole) * (subpixels * unit);
  const int64_t off_x = int64_t(out.reference_x) * subpixels + subpixels / 2 - p.x,
                off_y = int64_t(out.reference_y) * subpixels + subpixels / 2 - p.y;
  const float p_scaled = p.z * inverse;
  if (p_scaled < 0x1p60f) {
    const __int128 sum = static_cast<__int128>(static_cast<int64_t>(p_scaled)) * area +
                         static_cast<__int128>(step_x) * off_x + static_cast<__int128>(step_y) * off_y;
    out.z = (to_float(sum) / whole) * unit;
  } else {
    out.z = p.z;  // the plane is flat beside its own height
  }
}

// Whether edge values of a triangle fit 32 bits.
HD inline bool is_small(const FixedVertex& a, const FixedVertex& b, const FixedVertex& c) {
  return most(most(a.x, b.x), c.x) - least(least(a.x, b.x), c.x) < small_extent &&
         most(most(a.y, b.y), c.y) - least(least(a.y, b.y), c.y) < small_extent;
}

// Prepares a triangle for the pixels of [x0, x1) x [y0, y1); false when it covers none of their centres
// for sure, has no area, or turns a side that is left out: `cull` is 1 for triangles that are clockwise on
// the screen, -1 for the others (those of mirrored instances), 0 for none.
HD inline bool set_up(const FixedVertex& a, const FixedVertex& b, const FixedVertex& c, int x0, int y0,
                      int x1, int y1, int width, int height, int cull, FixedTriangle& out) {
  const int32_t lo_x = least(least(a.x, b.x), c.x), hi_x = most(most(a.x, b.x), c.x);
  const int32_t lo_y = least(least(a.y, b.y), c.y), hi_y = most(most(a.y, b.y), c.y);
  out.px0 = most(x0, (lo_x + subpixels / 2 - 1) >> subpixel_bits);
  out.px1 = least(x1 - 1, (hi_x - subpixels / 2) >> subpixel_bits);
  out.py0 = most(y0, (lo_y + subpixels / 2 - 1) >> subpixel_bits);
  out.py1 = least(y1 - 1, (hi_y - subpixels / 2) >> subpixel_bits);
  if (out.px0 > out.px1 || out.py0 > out.py1) return false;

  const int64_t area =
      (int64_t(b.x) - a.x) * (int64_t(c.y) - a.y) - (int64_t(c.x) - a.x) * (int64_t(b.y) - a.y);
  if (area == 0 || (area > 0 ? cull > 0 : cull < 0)) return false;
  // Clockwise on the screen (y down), the first corner the topmost, leftmost one: a triangle gives the
  // same plane whichever corner it is stored from.
  FixedVertex p = a, q = area > 0 ? b : c, r = area > 0 ? c : b;
  const auto above = [](const FixedVertex& v, const FixedVertex& w) {
    return v.y < w.y || (v.y == w.y && v.x < w.x);
  };
  if (above(r, p) && above(r, q)) {
    const FixedVertex last = r;
    r = q, q = p, p = last;
  } else if (above(q, p)) {
    const FixedVertex first = p;
    p = q, q = r, r = first;
  }
  out.x[0] = p.x, out.x[1] = q.x, out.x[2] = r.x;
  out.y[0] = p.y, out.y[1] = q.y, out.y[2] = r.y;
  out.small = is_small(a, b, c);
  out.reference_x = most(0, least(p.x >> subpixel_bits, width - 1));
  out.reference_y = most(0, least(p.y >> subpixel_bits, height - 1));
  depth_plane(p, q, r, area < 0 ? -area : area, out);
  out.z_min = least(least(a.z, b.z), c.z);
  out.z_max = most(most(a.z, b.z), c.z);
  return true;
}

// Calls put(px, py) for the pixels of a small triangle: edge values go from pixel to pixel in 32 bits.
template <class Put>
HD inline void each_pixel(const FixedTriangle& t, Put&& put) {
  int32_t row[3], step_x[3], step_y[3];
  for (int i = 0; i < 3; ++i) {
    const int j = i == 2 ? 0 : i + 1;
    row[i] = static_cast<int32_t>(t.edge(i, t.px0, t.py0));
    step_x[i] = -(t.y[j] - t.y[i]) * subpixels;
    step_y[i] = (t.x[j] - t.x[i]) * subpixels;
  }
  for (int py = t.py0; py <= t.py1; ++py) {
    int32_t e[3] = {row[0], row[1], row[2]};
    for (int px = t.px0; px <= t.px1; ++px) {
      if ((e[0] | e[1] | e[2]) >= 0) put(px, py);
      for (int i = 0; i < 3; ++i) e[i] += step_x[i];
    }
    for (int i = 0; i < 3; ++i) row[i] += step_y[i];
  }
}

}  // namespace nanite_cull
