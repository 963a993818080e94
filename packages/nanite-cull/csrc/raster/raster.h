// Visible clusters to a visibility buffer: which triangle each pixel sees, and how deep.
//
// The image is cut into tiles and each tile belongs to one thread, so no write is atomic and the result
// does not depend on threads: at each pixel the largest (depth, slot, triangle) stays, as one 64-bit
// maximum would have it.
#pragma once

#include "core/fixed_triangle.h"
#include "cull/cull.h"

namespace nanite_cull {

constexpr int triangle_bits = 7;
constexpr uint64_t max_slots = uint64_t(1) << (32 - triangle_bits);

// Planes of width x height pixels. Depth 0: nothing was drawn there.
struct VisibilityBuffer {
  int width = 0, height = 0;
  std::vector<float> depth;
  std::vector<uint32_t> id;        // slot in VisibleClusters::buffer << 7 | triangle
  std::vector<uint32_t> overdraw;  // fragments that were tested; empty when not asked for
};

struct RasterOptions {
  bool cull_back = false;
  bool overdraw = false;
  bool large_path_only = false;  // for tests: every triangle takes the path of large ones
  int threads = 0;
};

struct RasterStats {
  uint64_t clusters = 0, clipped_triangles = 0, drawn_triangles = 0;

  void add(const RasterStats& other) {
    clusters += other.clusters, clipped_triangles += other.clipped_triangles;
    drawn_triangles += other.drawn_triangles;
  }
};

// Draws every visible cluster of one of the views that were culled. Throws native::ValueError when the buffer
// has more slots than ids can name.
void raster(const Draws& draws, const View& view, const VisibleClusters& visible,
            const RasterOptions& options, VisibilityBuffer& out, RasterStats& stats, uint32_t number = 0);

// Draws the clusters of some slots over what `out` holds; adds to `stats`.
void raster_added(const Draws& draws, const VisibleClusters& visible, const std::vector<uint32_t>& slots,
                  const RasterOptions& options, VisibilityBuffer& out, RasterStats& stats);

// Brute force: triangle i of (count, 3) faces over positions, drawn as id i. No clusters, no culling.
void raster_triangles(const float* positions, int64_t vertex_count, const uint32_t* faces, int64_t count,
                      const float* object_to_clip, const RasterOptions& options, int width, int height,
                      VisibilityBuffer& out);

}  // namespace nanite_cull
