// Hollows of an image, tile by tile: core/hollow.h.
#pragma once

#include <vector>

#include "core/hollow.h"
#include "raster/raster.h"

namespace nanite_cull {

// Hollows of one tile of the image, in pixels at each pixel's distance, by the radius: over a small square
// around it and a large one. Squares reach beyond the tile and are cut off at the image's edges.
class Hollows {
 public:
  // Tile of columns [x0, x1) and rows [y0, y1).
  void find(const VisibilityBuffer& buffer, const Lens& lens, int x0, int y0, int x1, int y1);

  // Of a pixel of the tile that was drawn.
  float at(int x, int y) const { return hollow_[size_t(y - y0_) * width_ + (x - x0_)]; }

 private:
  struct Square {
    int radius = 0;
    std::vector<float> sum, count;  // of distances and of drawn pixels, along the rows
  };
  void sum_rows(const VisibilityBuffer& buffer, const Lens& lens);
  void sum_columns(Square& square, const Lens& lens);

  int x0_ = 0, y0_ = 0, width_ = 0, height_ = 0;  // the tile
  int halo_ = 0;                                  // rows above it and below that squares reach
  Square squares_[2];                             // small, large
  std::vector<float> distance_, hollow_, sum_;    // of the tile
  std::vector<float> line_, seen_, doubled_;      // one row, wider by the halo at both ends
  std::vector<float> column_count_;
};

}  // namespace nanite_cull
