// From the visibility buffer to a picture: core/shade_pixel.h and core/hollow.h for a whole image.
#pragma once

#include "core/shade_pixel.h"
#include "cull/cull.h"
#include "raster/raster.h"

namespace nanite_cull {

const ByteTable& byte_table();

// (height, width, 3) bytes. The tables of `shading` are those of the host, whatever it says.
void shade(const Draws& draws, const VisibleClusters& visible, const VisibilityBuffer& buffer,
           const Lens& lens, Shading shading, uint8_t* out, int threads);

}  // namespace nanite_cull
