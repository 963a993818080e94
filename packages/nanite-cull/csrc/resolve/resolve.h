// From the visibility buffer to what a pixel means.
#pragma once

#include "core/resolve_pixel.h"
#include "raster/motion.h"
#include "raster/raster.h"

namespace nanite_cull {

// `motion`: for velocities, else not read.
void resolve(const Draws& draws, const View& view, const VisibleClusters& visible,
             const VisibilityBuffer& buffer, const Motion& motion, const ResolveTargets& targets,
             int threads);

}  // namespace nanite_cull
