// From the visibility buffer to what a pixel means.
#pragma once

#include "raster/motion.h"
#include "raster/raster.h"

namespace nanite_cull {

// Planes of (height, width); null ones are left out. Where nothing was drawn: `none`, and zero vectors.
struct ResolveTargets {
  uint32_t* instance = nullptr;
  uint32_t* cluster = nullptr;   // of the instance's asset
  uint32_t* triangle = nullptr;  // of the instance's asset, counted over all its clusters
  uint32_t* level = nullptr;
  uint32_t* material = nullptr;
  float* normal = nullptr;    // (.., 3), world, unit: interpolated, or the triangle's where there are none
  float* uv = nullptr;        // (.., 2)
  float* color = nullptr;     // (.., 4); white where the asset has none
  float* velocity = nullptr;  // (.., 2), pixels to the right and down since the frame before; zero where
                              // there is none, and for what was behind the eye then
};

// `motion`: for velocities, else not read.
void resolve(const Draws& draws, const View& view, const VisibleClusters& visible,
             const VisibilityBuffer& buffer, const Motion& motion, const ResolveTargets& targets,
             int threads);

}  // namespace nanite_cull
