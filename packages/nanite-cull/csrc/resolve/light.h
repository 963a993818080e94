// Which share of each light reaches each pixel: core/light_pixel.h for a whole image.
#pragma once

#include <vector>

#include "core/light_pixel.h"
#include "raster/raster.h"

namespace nanite_cull {

// As SeenLight, in the world.
struct Light {
  bool sun = true;
  double at[3] = {0, 0, 0};
  float strength = 1;
  float fade = 0, range = 0;
  float bias = 0;
  uint32_t first_map = 0, maps = 0;
};

struct Lights {
  std::vector<Light> lights;
  std::vector<View> maps;
  const float* depth = nullptr;  // (maps, size, size)
  int size = 0;
};

// Lights as an eye sees them: differences of places in the world are taken in double precision, here and
// nowhere else.
class LightsFromEye {
 public:
  LightsFromEye(const Lights& lights, const double* eye);
  const std::vector<SeenLight>& lights() const { return lights_; }
  const std::vector<SeenMap>& maps() const { return maps_; }
  // `depth`: where the maps are.
  SeenLights seen(const float* depth) const {
    return {lights_.data(), static_cast<int>(lights_.size()), maps_.data(), depth, size_};
  }

 private:
  std::vector<SeenLight> lights_;
  std::vector<SeenMap> maps_;
  int size_;
};

// `eye`: where the lens is, in the world.
void find_light(const Draws& draws, const VisibleClusters& visible, const VisibilityBuffer& buffer,
                const Lens& lens, const double* eye, const Lights& lights, const LightTargets& targets,
                int threads);

}  // namespace nanite_cull
