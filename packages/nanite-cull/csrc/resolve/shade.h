// From the visibility buffer to a picture: a lamp or the scene's lights, the sky, a rim, and hollows darker
// than ridges (Luft, Colditz and Deussen, "Image Enhancement by Unsharp Masking the Depth Buffer", 2006).
#pragma once

#include "cull/cull.h"
#include "raster/raster.h"
#include "resolve/lens.h"

namespace nanite_cull {

enum class Base { plain, color, cluster, triangle, instance, level };

struct ShadeOptions {
  Base base = Base::plain;
  float light[3];                 // towards the lamp, world, unit
  const float* direct = nullptr;  // (height, width): of find_light(), in place of the lamp's light
  float relief = 0;               // how strongly hollows darken
  const float* ramp = nullptr;    // (ramp_size, 3): colours of levels, of 0 to 1
  int ramp_size = 0;
  uint32_t top_level = 0;
  const float* background = nullptr;  // (height, 3)
};

// World positions of what is seen at the pixels' centres, (height, width, 3); NaN where nothing was drawn.
// `to_world`: rows, the inverse of the camera's linear part.
void unproject(const VisibilityBuffer& buffer, const Lens& lens, const double* to_world, const double* eye,
               float* out, int threads);

// (height, width, 3) bytes.
void shade(const Draws& draws, const View& view, const VisibleClusters& visible,
           const VisibilityBuffer& buffer, const Lens& lens, const ShadeOptions& options, uint8_t* out,
           int threads);

}  // namespace nanite_cull
