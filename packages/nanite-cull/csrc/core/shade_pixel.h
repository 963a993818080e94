// From what a pixel shows to its colour in a picture: a lamp or the scene's lights, the sky, a rim, and
// hollows darker than ridges.
#pragma once

#include <cmath>

#include "core/drawn_triangle.h"
#include "core/lens.h"
#include "core/srgb.h"

namespace nanite_cull {

enum class Base { plain, color, cluster, triangle, instance, level };

constexpr int byte_bins = 1024;  // a bin is narrower than any byte's step
constexpr int byte_levels = 256;

// x to the power 1 / 1.1 as a byte, by the least x of each: the same bits on host and device, which powers
// would not have.
struct ByteTable {
  float least_of[byte_levels + 1] = {};  // of each byte; of the last one more, infinity
  uint8_t start[byte_bins + 1] = {};     // the byte at the beginning of each bin

  HD uint8_t of(float x) const {
    x = x > 0 ? least(x, 1.0f) : 0.0f;
    const int level = start[static_cast<int>(x * byte_bins)];
    return static_cast<uint8_t>(level + (x >= least_of[level + 1]));
  }
};

struct Shading {
  Base base = Base::plain;
  float light[3] = {0, 0, 1};  // towards the lamp, world, unit
  float relief = 0;            // how strongly hollows darken
  uint32_t top_level = 0;
  const float* direct = nullptr;  // (height, width): of light_pixel(), in place of the lamp's light; or null
  const float* ramp = nullptr;    // (ramp_size, 3): colours of levels, of 0 to 1
  int ramp_size = 0;
  const float* background = nullptr;  // (height, 3)
  const ByteTable* bytes = nullptr;
  const float* display = nullptr;  // build/srgb.h's table

  HD Wants wants() const { return {true, false, base == Base::color, false, base == Base::color}; }
};

// The same id has the same colour in every picture.
HD inline void stable_color(uint32_t id, float* out) {
  uint64_t h = uint64_t(id) * 0x9E3779B1u & 0xffffffffu;
  h ^= h >> 15;
  h = h * 0x85EBCA77u & 0xffffffffu;
  h ^= h >> 13;
  for (int c = 0; c < 3; ++c) out[c] = 0.25f + 0.75f * (float(h >> (8 * c) & 255) / 255);
}

HD inline void ramp_color(const Shading& shading, float value, float* out) {
  const float at = least(most(value, 0.0f), 1.0f) * float(shading.ramp_size - 1);
  const int low = least(static_cast<int>(at), shading.ramp_size - 2);
  const float part = at - float(low), *a = shading.ramp + 3 * low, *b = a + 3;
  for (int c = 0; c < 3; ++c) out[c] = a[c] * (1 - part) + b[c] * part;
}

// A lamp without shadows; both sides of a surface are lit. `towards`: the cosine between normal and eye.
HD inline float lamp_on(const float* n, float towards, const float* lamp) {
  const float side = towards < 0 ? -1.0f : 1.0f;
  return 0.72f * most(side * (n[0] * lamp[0] + n[1] * lamp[1] + n[2] * lamp[2]), 0.0f);
}

// What falls on a surface directly, the sky and the rim.
HD inline float light_on(const float* n, float towards, float direct) {
  const float side = towards < 0 ? -1.0f : 1.0f;
  const float sky = 0.5f + 0.5f * side * n[1], rim = 1 - magnitude(towards);
  return (direct + 0.26f * sky) + 0.10f * (rim * rim * rim);
}

// The colour of a pixel's triangle, prepared for wants(), before light falls on it, and its normal.
HD inline void base_pixel(const Shading& shading, const DrawnTriangle& tri, uint32_t instance, int px, int py,
                          const ImageSize& image, float* normal, float* out) {
  float weight[3] = {0, 0, 0}, color[4];
  if (tri.interpolates) tri.weights(px, py, image.width, image.height, weight);
  tri.normal(weight, normal);
  switch (shading.base) {
    case Base::plain: out[0] = 0.80f, out[1] = 0.76f, out[2] = 0.70f; return;
    case Base::color: {
      tri.color(weight, color);
      const Texel texel = tri.texel(px, py, image.width, image.height);
      const float light[3] = {texel.r, texel.g, texel.b};
      for (int c = 0; c < 3; ++c)
        out[c] = tri.linear_colors ? display_of(shading.display, color[c] * light[c])
                                   : color[c] * display_of(shading.display, light[c]);
      return;
    }
    case Base::cluster:
      return stable_color(tri.cluster ^ static_cast<uint32_t>(uint64_t(instance) << 20 & 0xffffffffu), out);
    case Base::triangle: return stable_color(tri.triangle, out);
    case Base::instance: return stable_color(instance, out);
    case Base::level: return ramp_color(shading, float(tri.level) / float(most(1u, shading.top_level)), out);
  }
}

// The picture's bytes at a pixel of that base and hollow.
HD inline void shade_pixel(const Shading& shading, const Lens& lens, int px, int py, int width,
                           const float* normal, const float* base, float hollow, uint8_t* out) {
  float eye[3];
  towards_eye(lens, px, py, eye);
  const float towards = normal[0] * eye[0] + normal[1] * eye[1] + normal[2] * eye[2];
  const float relief = 1 - least(most(shading.relief * hollow, -0.12f), 0.4f);
  const float direct =
      shading.direct ? shading.direct[int64_t(py) * width + px] : lamp_on(normal, towards, shading.light);
  const float light = least(most(light_on(normal, towards, direct) * relief, 0.0f), 1.2f);
  for (int c = 0; c < 3; ++c) out[c] = shading.bytes->of(base[c] * light);
}

// Where nothing was drawn.
HD inline void shade_nothing(const Shading& shading, int py, uint8_t* out) {
  for (int c = 0; c < 3; ++c) out[c] = shading.bytes->of(shading.background[3 * py + c]);
}

}  // namespace nanite_cull
