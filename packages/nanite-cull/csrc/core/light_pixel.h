// Which share of a light reaches a pixel: shadow maps (Williams, "Casting Curved Shadows on Curved Surfaces",
// 1978) read by percentage-closer filtering (Reeves, Salesin and Cook, "Rendering Antialiased Shadows with
// Depth Maps", 1987). All places are seen from the camera's eye.
#pragma once

#include <cmath>

#include "core/drawn_triangle.h"
#include "core/lens.h"

namespace nanite_cull {

// A sun, or a lamp at a place, and its shadow maps.
struct SeenLight {
  bool sun = true;
  float at[3] = {0, 0, 0};  // a sun: direction towards it, unit; a lamp: where it is
  float strength = 1;
  float fade = 0;   // of a lamp: where its strength is that; inverse square. 0: the same everywhere
  float range = 0;  // of one that fades: no light from there on; 0: without end
  // How far a point is lifted off its surface before its depth is compared: texels of the map, or pixels of
  // the image where those are larger.
  float bias = 0;
  uint32_t first_map = 0, maps = 0;  // finest first; the first one that holds a point is read
};

struct SeenMap {
  float to_clip[16];  // rows; reversed Z
  float pixels_per_unit;
  bool orthographic;
};

// Square depth maps of one size.
struct SeenLights {
  const SeenLight* lights = nullptr;
  int count = 0;
  const SeenMap* maps = nullptr;
  const float* depth = nullptr;  // (maps, size, size)
  int size = 0;
};

// Texels around a point that a filter reads: what does not have them is not held by a map.
constexpr int filter_margin = 2;

// Null ones are left out.
struct LightTargets {
  float* share = nullptr;  // (lights, height, width), 0 to 1; 0 where the surface turns its back to the light
                           // or nothing was drawn, 1 where no map holds the point
  float* direct = nullptr;  // (height, width): the sum over lights of strength, share and cosine
};

HD constexpr Wants light_wants() { return {true, false, false, false}; }

// A surface that light falls on: its side that is seen.
struct LitPoint {
  float place[3], normal[3];
  float pixel;  // of the image, in units of the world there
};

struct MapTexel {
  float x, y, depth;  // from the map's upper left corner, in texels; reversed Z
  float distance;     // along the map's axis; one for an orthographic map
};

// False for what lies behind the map's eye.
HD inline bool to_texel(const SeenMap& map, int size, const float* place, MapTexel& out) {
  const ClipVertex clip = to_clip(map.to_clip, place);
  if (!(clip.w > 0)) return false;
  out.x = (clip.x / clip.w * 0.5f + 0.5f) * float(size);
  out.y = (0.5f - clip.y / clip.w * 0.5f) * float(size);
  out.depth = clip.z / clip.w, out.distance = clip.w;
  return true;
}

HD inline bool map_holds(int size, const MapTexel& at) {
  const float first = filter_margin, last = float(size - filter_margin);
  return at.x >= first && at.x < last && at.y >= first && at.y < last;
}

// The mean of 3 x 3 comparisons about a point, each blended over its four texels: sixteen texels in all.
HD inline float filtered(const float* map, int size, const MapTexel& at) {
  const float left = floorf(at.x - 0.5f), top = floorf(at.y - 0.5f);
  const float right = at.x - 0.5f - left, below = at.y - 0.5f - top;
  const float across[4] = {1 - right, 1, 1, right}, down[4] = {1 - below, 1, 1, below};
  float shadow = 0;
  for (int j = 0; j < 4; ++j) {
    const float* row = map + int64_t(least(most(int(top) + j - 1, 0), size - 1)) * size;
    for (int i = 0; i < 4; ++i) {
      const int x = least(most(int(left) + i - 1, 0), size - 1);
      shadow += row[x] > at.depth ? across[i] * down[j] : 0.0f;
    }
  }
  return most(1 - shadow / 9, 0.0f);
}

// Along the normal, so that a plane never shades itself, however flat light falls on it: there depth changes
// by the tangent of the angle, and so does what the lift gains (Holbert, "Saying Goodbye to Shadow Acne",
// 2011).
HD inline float reaches(const SeenLights& all, const SeenLight& light, const LitPoint& point) {
  for (uint32_t m = light.first_map; m < light.first_map + light.maps; ++m) {
    const SeenMap& map = all.maps[m];
    MapTexel at;
    if (!to_texel(map, all.size, point.place, at)) continue;
    const float texel = (map.orthographic ? 1 : at.distance) / map.pixels_per_unit;
    const float lift = light.bias * most(texel, point.pixel);
    float lifted[3];
    for (int a = 0; a < 3; ++a) lifted[a] = point.place[a] + point.normal[a] * lift;
    if (to_texel(map, all.size, lifted, at) && map_holds(all.size, at))
      return filtered(all.depth + int64_t(m) * all.size * all.size, all.size, at);
  }
  return 1;
}

// The cosine between a normal and the way to a light; `distance`: of a lamp.
HD inline float facing(const SeenLight& light, const LitPoint& point, float& distance) {
  float way[3], size = 0, square = 0, dot = 0;
  for (int a = 0; a < 3; ++a) {
    way[a] = light.sun ? light.at[a] : light.at[a] - point.place[a];
    size = most(size, magnitude(way[a]));
  }
  distance = 0;
  if (!(size > 0)) return 0;
  for (int a = 0; a < 3; ++a) {
    way[a] /= size;  // squares of tiny ones would vanish
    square += way[a] * way[a], dot += way[a] * point.normal[a];
  }
  const float root = sqrtf(square);
  distance = size * root;
  return dot / root;
}

// What distance leaves of a lamp's light: the inverse square, brought to zero at the range by the window that
// glTF takes (KHR_lights_punctual).
HD inline float faded(const SeenLight& light, float distance) {
  if (light.sun || !(light.fade > 0)) return 1;
  float window = 1;
  if (light.range > 0) {
    const float part = distance / light.range, square = part * part;
    window = least(most(1 - square * square, 0.0f), 1.0f);
  }
  const float near_part = light.fade / distance;
  return window * near_part * near_part;
}

// A pixel that shows `tri`, prepared for light_wants(), at `depth`.
HD inline LitPoint lit_point(const Lens& lens, const DrawnTriangle& tri, int px, int py,
                             const ImageSize& image, float depth) {
  LitPoint out;
  from_eye(lens, px, py, depth, out.place);
  float weight[3] = {0, 0, 0}, eye[3];
  if (tri.interpolates) tri.weights(px, py, image.width, image.height, weight);
  tri.normal(weight, out.normal);
  towards_eye(lens, px, py, eye);
  if (out.normal[0] * eye[0] + out.normal[1] * eye[1] + out.normal[2] * eye[2] < 0)  // both sides are lit
    for (float& n : out.normal) n = -n;
  out.pixel = lens.pixel * (lens.orthographic ? 1 : along_axis(lens, depth));
  return out;
}

// `at`: of the pixel in a plane of `pixels`.
HD inline void light_pixel(const SeenLights& all, const LitPoint& point, int64_t at, int64_t pixels,
                           const LightTargets& t) {
  float sum = 0;
  for (int l = 0; l < all.count; ++l) {
    const SeenLight& light = all.lights[l];
    float distance;
    const float cosine = facing(light, point, distance);
    const float reached = cosine > 0 ? reaches(all, light, point) : 0;
    if (t.share) t.share[l * pixels + at] = reached;
    if (cosine > 0) sum += light.strength * faded(light, distance) * (reached * cosine);
  }
  if (t.direct) t.direct[at] = sum;
}

// A pixel that shows nothing.
HD inline void light_nothing(const SeenLights& all, int64_t at, int64_t pixels, const LightTargets& t) {
  if (t.share)
    for (int l = 0; l < all.count; ++l) t.share[l * pixels + at] = 0;
  if (t.direct) t.direct[at] = 0;
}

}  // namespace nanite_cull
