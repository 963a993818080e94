#include "resolve/light.h"

#include <algorithm>

#include "native/parallel.h"
#include "resolve/interpolator.h"

namespace nanite_cull {

namespace {

SeenLight light_from(const Light& light, const double* eye) {
  SeenLight out;
  out.sun = light.sun, out.strength = light.strength, out.fade = light.fade, out.range = light.range;
  out.bias = light.bias, out.first_map = light.first_map, out.maps = light.maps;
  for (int a = 0; a < 3; ++a) out.at[a] = static_cast<float>(light.at[a] - (light.sun ? 0 : eye[a]));
  return out;
}

SeenMap map_from(const View& map, const double* eye) {
  SeenMap out;
  out.pixels_per_unit = map.pixels_per_unit, out.orthographic = map.orthographic;
  for (int i = 0; i < 4; ++i) {
    const double* row = map.relative_to_clip + 4 * i;
    double shift = row[3];
    for (int a = 0; a < 3; ++a) {
      out.to_clip[4 * i + a] = static_cast<float>(row[a]);
      shift += row[a] * (eye[a] - map.eye[a]);
    }
    out.to_clip[4 * i + 3] = static_cast<float>(shift);
  }
  return out;
}

}  // namespace

LightsFromEye::LightsFromEye(const Lights& lights, const double* eye) : size_(lights.size) {
  for (const Light& light : lights.lights) lights_.push_back(light_from(light, eye));
  for (const View& map : lights.maps) maps_.push_back(map_from(map, eye));
}

void find_light(const Draws& draws, const VisibleClusters& visible, const VisibilityBuffer& buffer,
                const Lens& lens, const double* eye, const Lights& lights, const LightTargets& targets,
                int threads) {
  const int64_t pixels = int64_t(buffer.width) * buffer.height;
  const ImageSize image{buffer.width, buffer.height};
  const LightsFromEye from_here(lights, eye);
  const SeenLights seen = from_here.seen(lights.depth);
  native::parallel_for(buffer.height, 16, threads, [&](int64_t first, int64_t last) {
    Interpolator tri;
    for (int64_t at = first * image.width; at < last * image.width; ++at) {
      if (!(buffer.depth[at] > 0)) {
        light_nothing(seen, at, pixels, targets);
        continue;
      }
      if (!tri.valid || tri.id != buffer.id[at]) tri.prepare(draws, visible, buffer.id[at], light_wants());
      const LitPoint point = lit_point(lens, tri, static_cast<int>(at % image.width),
                                       static_cast<int>(at / image.width), image, buffer.depth[at]);
      light_pixel(seen, point, at, pixels, targets);
    }
  });
}

}  // namespace nanite_cull
