// What the kernels that draw share.
#pragma once

#include "core/projection.h"
#include "cull/cull_pass.h"

namespace nanite_cull::cuda {

constexpr int small_threads = 128;  // of a block: a triangle each
constexpr int set_up_threads = 64;  // the polygons of all of them are in shared memory
constexpr int piece_threads = 128;
constexpr int piece_shift = 6;       // tiles of 64 x 64 pixels
constexpr int id_triangle_bits = 7;  // as in raster/raster.h

constexpr uint64_t masked_piece = uint64_t(1) << 31;

struct LargeTriangle {
  FixedVertex corner[3];
  uint32_t id;
};

// In device memory; zero before a frame.
struct SmallCounts {
  Count left;   // clusters
  Count drawn;  // triangles
};
// Zero before every attempt.
struct LargeCounts {
  Count triangles, pieces;  // offered
  Count clipped;
};

struct RasterPass {
  SceneArrays scene;
  const Visible* visible;  // slots
  uint32_t capacity;       // of them
  // slots to draw, by size; null: as many as the count says, from the front and from the back
  const uint32_t *small_slots, *large_slots;
  const Count *small_count, *large_count;
  const float* to_clip;  // (views, instances, 16)
  Count* pixels;         // (views, height, width)
  uint32_t* overdraw;    // the same: fragments that were tested; null: not counted
  int width, height;
  bool cull_back;
  uint32_t* left;  // slots of small clusters with triangles that were left
  LargeTriangle* triangles;
  uint64_t* pieces;  // triangle << 32 | masked_piece where it may have holes | tile, view by view
  uint32_t triangle_capacity, piece_capacity;
  SmallCounts* small;
  LargeCounts* large;

  HD Screen screen() const { return Screen(width, height); }
  HD int columns() const { return ((width - 1) >> piece_shift) + 1; }  // of tiles
  HD int rows() const { return ((height - 1) >> piece_shift) + 1; }
};

}  // namespace nanite_cull::cuda
