// From a welded mesh to the graph of clusters.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "build/asset.h"
#include "build/weld.h"

namespace nanite_cull {

struct BuildOptions {
  int max_triangles = 128;  // of a cluster: a multiple of four, at most 128
  int group_size = 16;      // clusters that a group aims at: 8 to 32
  int width = 8;            // children of a hierarchy node: 4 or 8
  int position_bits = 0;    // bits across the mesh; 0: chosen by choose_grid()
  double step = 0;          // the grid by hand: a power of two; 0: chosen
  bool set_origin = false;
  double origin[3] = {0, 0, 0};  // of the grid, where set_origin says so
  bool drop_vanishing = false;   // triangles with an area that the grid has no room for: dropped, or an error
  float normal_weight = 0.5f, uv_weight = 0.2f, color_weight = 0.2f;  // in the simplifier's error
  // Of each material whether colours are linear light; of those it does not reach they are what a display is
  // sent. Errors are weighed as a display shows them, which is nearer to how eyes do.
  std::vector<uint8_t> linear_colors;
  bool keep_source = true;  // remember which face each leaf triangle came from
  int threads = 0;          // 0: as many as OpenMP gives; never changes the result
};

// Called between steps with the share of the work that is done (0 to 1); may throw to stop the build.
using Progress = std::function<void(double share, const char* step)>;

// Welds, builds all levels and the hierarchy. Throws native::ValueError for a mesh or an option that
// cannot be built. open_meshopt() must have been called.
Asset build(const MeshInput& mesh, const BuildOptions& options, const Progress& progress);

}  // namespace nanite_cull
