#include "resolve/light.h"

#include <algorithm>
#include <cmath>

#include "native/parallel.h"
#include "resolve/interpolator.h"

namespace nanite_cull {

namespace {

struct Texel {
  float x, y, depth;  // from the map's upper left corner, in texels; reversed Z
  double distance;    // along the map's axis; one for an orthographic map
};

// False for what lies behind the map's eye.
bool to_texel(const View& map, int size, const double* point, Texel& out) {
  double clip[4];
  for (int i = 0; i < 4; ++i) {
    const double* row = map.relative_to_clip + 4 * i;
    clip[i] = row[3];
    for (int a = 0; a < 3; ++a) clip[i] += row[a] * (point[a] - map.eye[a]);
  }
  if (!(clip[3] > 0)) return false;
  out.x = float((clip[0] / clip[3] * 0.5 + 0.5) * size);
  out.y = float((0.5 - clip[1] / clip[3] * 0.5) * size);
  out.depth = float(clip[2] / clip[3]), out.distance = clip[3];
  return true;
}

bool holds(int size, const Texel& at) {
  const float least = filter_margin, most = float(size - filter_margin);
  return at.x >= least && at.x < most && at.y >= least && at.y < most;
}

// The mean of 3 x 3 comparisons about a point, each blended over its four texels: sixteen texels in all.
float filtered(const float* map, int size, const Texel& at) {
  const float left = std::floor(at.x - 0.5f), top = std::floor(at.y - 0.5f);
  const float right = at.x - 0.5f - left, below = at.y - 0.5f - top;
  const float across[4] = {1 - right, 1, 1, right}, down[4] = {1 - below, 1, 1, below};
  float shadow = 0;
  for (int j = 0; j < 4; ++j) {
    const int y = std::clamp(int(top) + j - 1, 0, size - 1);
    for (int i = 0; i < 4; ++i) {
      const int x = std::clamp(int(left) + i - 1, 0, size - 1);
      shadow += map[size_t(y) * size + x] > at.depth ? across[i] * down[j] : 0.0f;
    }
  }
  return std::max(1 - shadow / 9, 0.0f);
}

// Along the normal, so that a plane never shades itself, however flat light falls on it: there depth changes
// by the tangent of the angle, and so does what the lift gains (Holbert, "Saying Goodbye to Shadow Acne",
// 2011).
float reaches(const Light& light, const ShadowMaps& maps, const double* point, const float* normal,
              double pixel) {
  for (uint32_t m = light.first_map; m < light.first_map + light.maps; ++m) {
    const View& map = maps.views[m];
    Texel at;
    if (!to_texel(map, maps.size, point, at)) continue;
    const double texel = (map.orthographic ? 1 : at.distance) / map.pixels_per_unit;
    double lifted[3];
    for (int a = 0; a < 3; ++a) lifted[a] = point[a] + normal[a] * light.bias * std::max(texel, pixel);
    if (to_texel(map, maps.size, lifted, at) && holds(maps.size, at))
      return filtered(maps.depth + size_t(m) * maps.size * maps.size, maps.size, at);
  }
  return 1;
}

// The cosine between a normal and the way to a light; `distance`: of a lamp.
float facing(const Light& light, const double* point, const float* normal, double& distance) {
  double way[3], square = 0, dot = 0;
  for (int a = 0; a < 3; ++a) {
    way[a] = light.sun ? light.at[a] : light.at[a] - point[a];
    square += way[a] * way[a], dot += way[a] * normal[a];
  }
  distance = std::sqrt(square);
  return square > 0 ? float(dot / distance) : 0;
}

// What distance leaves of a lamp's light: the inverse square, brought to zero at the range by the window that
// glTF takes (KHR_lights_punctual).
float faded(const Light& light, double distance) {
  if (light.sun || !(light.fade > 0)) return 1;
  const double part = distance / light.range, square = part * part;
  const double window = light.range > 0 ? std::clamp(1 - square * square, 0.0, 1.0) : 1;
  return float(window * (light.fade / distance) * (light.fade / distance));
}

}  // namespace

void find_light(const Draws& draws, const View& view, const VisibleClusters& visible,
                const VisibilityBuffer& buffer, const Unprojection& places, const std::vector<Light>& lights,
                const ShadowMaps& maps, float* share, float* direct, int threads) {
  const size_t pixels = size_t(buffer.width) * buffer.height;
  const Lens& lens = places.lens;
  native::parallel_for(buffer.height, 16, threads, [&](int64_t first, int64_t last) {
    Interpolator tri;
    for (int64_t y = first; y < last; ++y)
      for (int x = 0; x < buffer.width; ++x) {
        const size_t pixel = size_t(y) * buffer.width + x;
        float sum = 0;
        double point[3];
        float normal[3], weight[3] = {0, 0, 0};
        const bool drawn = buffer.depth[pixel] > 0;
        if (drawn) {
          unproject_pixel(lens, places.to_world, places.eye, x, int(y), buffer.depth[pixel], point);
          if (!tri.valid || tri.id != buffer.id[pixel])
            tri.prepare(draws, visible, buffer.id[pixel], Wants{true, false, false, false});
          if (tri.interpolates) tri.weights(x, int(y), view.width, view.height, weight);
          tri.normal(weight, normal);
          float eye[3];
          towards_eye(lens, x, int(y), eye);
          if (normal[0] * eye[0] + normal[1] * eye[1] + normal[2] * eye[2] < 0)  // both sides are lit
            for (float& n : normal) n = -n;
        }
        const double size = lens.pixel * (lens.orthographic ? 1 : along_axis(lens, buffer.depth[pixel]));
        for (size_t l = 0; l < lights.size(); ++l) {
          double distance = 0;
          const float cosine = drawn ? facing(lights[l], point, normal, distance) : 0;
          const float reached = cosine > 0 ? reaches(lights[l], maps, point, normal, size) : 0;
          if (share) share[l * pixels + pixel] = reached;
          if (cosine > 0) sum += lights[l].strength * faded(lights[l], distance) * (reached * cosine);
        }
        if (direct) direct[pixel] = sum;
      }
  });
}

}  // namespace nanite_cull
