// The pixel loops: one triangle into one tile.
#pragma once

#include "core/fixed_triangle.h"
#include "core/surface.h"

namespace nanite_cull {

struct Tile {
  int x0, y0, x1, y1;
  int pitch;     // pixels from one row to the next
  float* depth;  // of the whole image
  uint32_t* id;
  uint32_t* overdraw;  // or null
};

// Draws a prepared triangle, by the path of small or of large ones.
void draw(const Tile& tile, const FixedTriangle& triangle, uint32_t id, bool large_path);

// The same with holes, which are left out; asked where the triangle is nearer than what is there.
void draw_masked(const Tile& tile, const FixedTriangle& triangle, uint32_t id, bool large_path,
                 const Mask& mask);

}  // namespace nanite_cull
