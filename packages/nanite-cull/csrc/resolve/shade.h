// From the visibility buffer to a picture: one lamp, the sky, a rim, and hollows darker than ridges
// (Luft, Colditz and Deussen, "Image Enhancement by Unsharp Masking the Depth Buffer", 2006).
#pragma once

#include "resolve/resolve.h"

namespace nanite_cull {

// What a camera adds to its view. Rays are (ray_x[column], ray_y[row], -1) in the camera's space.
struct Lens {
  float rotation[9];  // world to camera, rows
  const double* ray_x = nullptr;
  const double* ray_y = nullptr;
  bool orthographic = false;
  double near_distance = 0, far_distance = 0;  // camera units
  double scale = 1;                            // camera units in one of the world
  double pixel = 1;  // world: of one pixel's height at distance one (perspective) or anywhere (orthographic)
};

enum class Base { plain, color, cluster, triangle, instance, level };

struct ShadeOptions {
  Base base = Base::plain;
  float light[3];               // towards the lamp, world, unit
  float relief = 0;             // how strongly hollows darken
  const float* ramp = nullptr;  // (ramp_size, 3): colours of levels, of 0 to 1
  int ramp_size = 0;
  uint32_t top_level = 0;
  const float* background = nullptr;  // (height, 3)
};

// World positions of what is seen at the pixels' centres, (height, width, 3); NaN where nothing was drawn.
// `to_world`: rows, the inverse of the camera's linear part.
void unproject(const VisibilityBuffer& buffer, const Lens& lens, const double* to_world, const double* eye,
               float* out, int threads);

// The planes in between, kept from picture to picture: fresh memory costs more than what is done with it.
struct ShadePlanes {
  std::vector<float> normal, color, distance, hollow, sum, count;
  std::vector<uint32_t> id, instance;
};

// (height, width, 3) bytes.
void shade(const Draws& draws, const View& view, const VisibleClusters& visible,
           const VisibilityBuffer& buffer, const Lens& lens, const ShadeOptions& options, ShadePlanes& planes,
           uint8_t* out, int threads);

}  // namespace nanite_cull
