// The triangles of a cut as one mesh in the world, for other tools: rays, files, physics.
#pragma once

#include "cull/cull.h"

namespace nanite_cull {

struct CutMesh {
  std::vector<double> vertices;  // (V, 3), world; each cluster has its own
  std::vector<uint32_t> faces;   // (T, 3); counter-clockwise seen from outside, also of mirrored instances
  std::vector<uint32_t> instance, cluster;  // of each triangle
};

// Every visible cluster, small ones first, each in its own order of triangles.
CutMesh cut_mesh(const Draws& draws, const VisibleClusters& visible, int threads);

}  // namespace nanite_cull
