// Which share of a light reaches each pixel: shadow maps (Williams, "Casting Curved Shadows on Curved
// Surfaces", 1978) read by percentage-closer filtering (Reeves, Salesin and Cook, "Rendering Antialiased
// Shadows with Depth Maps", 1987).
#pragma once

#include <vector>

#include "raster/raster.h"
#include "resolve/lens.h"

namespace nanite_cull {

// A sun, or a lamp at a place, and its shadow maps.
struct Light {
  bool sun = true;
  double at[3] = {0, 0, 0};  // a sun: direction towards it, unit; a lamp: where it is. World
  float strength = 1;
  float fade = 0;   // of a lamp: where its strength is that; inverse square. 0: the same everywhere
  float range = 0;  // of one that fades: no light from there on; 0: without end
  // How far a point is lifted off its surface before its depth is compared: texels of the map, or pixels of
  // the image where those are larger.
  float bias = 0;
  uint32_t first_map = 0, maps = 0;  // finest first; the first one that holds a point is read
};

// Square depth maps of one size.
struct ShadowMaps {
  std::vector<View> views;
  const float* depth = nullptr;  // (maps, size, size)
  int size = 0;
};

// Texels around a point that a filter reads: what does not have them is not held by a map.
constexpr int filter_margin = 2;

// World places of pixels: as unproject() takes them.
struct Unprojection {
  const Lens& lens;
  const double *to_world, *eye;
};

// `share`: (lights, height, width), 0 to 1; 0 where the surface turns its back to the light or nothing was
// drawn, 1 where no map holds the point. `direct`: (height, width), the sum over lights of strength, share
// and cosine. Either may be null.
void find_light(const Draws& draws, const View& view, const VisibleClusters& visible,
                const VisibilityBuffer& buffer, const Unprojection& places, const std::vector<Light>& lights,
                const ShadowMaps& maps, float* share, float* direct, int threads);

}  // namespace nanite_cull
