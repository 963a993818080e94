// Welding: a soup of triangles becomes grid points, wedges and faces that share them.
#pragma once

#include <cstdint>
#include <vector>

#include "build/mesh_grid.h"

namespace nanite_cull {

// A wedge is a vertex with attributes; several may sit at one position (a seam).
struct WeldedMesh {
  Grid grid;
  float uv_step = 1;
  float snap = 0;  // the farthest that a vertex was moved, object units
  float unit = 1;  // a power of two that brings coordinates to about one: what meshoptimizer is given
  std::vector<float> positions;       // (wedges, 3): from the origin; open borders keep their floats
  std::vector<uint32_t> position_of;  // (wedges) position id; empty where every wedge is its own position
  uint32_t position_count = 0;
  std::vector<float> normals, uvs, colors;
  std::vector<uint32_t> materials;
  std::vector<uint32_t> faces;   // (kept, 3) wedges
  std::vector<uint32_t> source;  // (kept) index of the face in the input
  std::vector<uint8_t> locked;   // (positions) or empty: what MeshInput::lock asks for
  uint64_t degenerate = 0;       // faces without area, dropped
  uint64_t vanished = 0;         // faces with an area that have none on the grid, dropped

  size_t wedge_count() const { return positions.size() / 3; }
  // Another wedge like `base`, of another material.
  void add_wedge(uint32_t base, uint32_t material);
  uint32_t position(uint32_t wedge) const { return position_of.empty() ? wedge : position_of[wedge]; }
};

// Snaps, welds and drops triangles that have two corners on one grid point. Triangles without area but
// with three distinct corners stay: they draw nothing and keep their neighbours joined. Vertices on open
// borders keep their very floats where the origin is zero, so that assets which share a border meet.
// Throws native::ValueError when no triangle with area is left.
WeldedMesh weld(const MeshInput& mesh, const Grid& grid, int threads);

// True where every corner's normal is that of its triangle: such normals say nothing that the triangles do
// not, and only keep the mesh from being simplified.
bool is_facetted(const MeshInput& mesh, int threads);

}  // namespace nanite_cull
