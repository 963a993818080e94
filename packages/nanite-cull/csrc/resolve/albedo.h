// The base pass of the literature: what a pixel's material says of its colour, material by material.
#pragma once

#include "raster/raster.h"

namespace nanite_cull {

// (height, width, 4) linear colours: of the texture times those of the vertices; zero where nothing was
// drawn. The pixels of a tile are counted, scanned and scattered into bins by their material, and read bin by
// bin, so that one texture at a time is in the cache.
void resolve_albedo(const Draws& draws, const View& view, const VisibleClusters& visible,
                    const VisibilityBuffer& buffer, float* out, int threads);

}  // namespace nanite_cull
