// Welding: a soup of triangles becomes grid points, wedges and faces that share them.
#pragma once

#include <cstdint>
#include <vector>

#include "build/asset.h"

namespace nanite_cull {

// Borrowed arrays of one mesh; optional ones may be null.
struct MeshInput {
  const float* positions = nullptr;     // (vertex_count, 3); or, in double:
  const double* positions64 = nullptr;  // (vertex_count, 3)
  const float* normals = nullptr;       // (vertex_count, 3), any length
  const float* uvs = nullptr;           // (vertex_count, 2)
  const float* colors = nullptr;        // (vertex_count, 4), 0 to 1
  const uint32_t* faces = nullptr;      // (face_count, 3)
  const uint32_t* materials = nullptr;  // (face_count)
  const uint8_t* lock = nullptr;        // (vertex_count): 1 stays where it is at every level
  int64_t vertex_count = 0;
  int64_t face_count = 0;

  double coordinate(int64_t i) const { return positions64 ? positions64[i] : double(positions[i]); }
};

// The lattice that positions are snapped to: integers of at most 24 bits times `step`, from `origin`.
struct Grid {
  double origin[3] = {0, 0, 0};  // multiples of step; zero where 24 bits reach the mesh from there
  float step = 1;                // a power of two
};

// How the grid is chosen. All zero: automatic.
struct GridOptions {
  int bits = 0;                    // across the mesh
  double step = 0;                 // a power of two, by hand
  const double* origin = nullptr;  // (3), by hand
};

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

// The grid of a mesh: fine enough for 16 bits across what its faces use and for a sixteenth of the short
// edges, of the whole mesh and of its densest part, and for no triangle to vanish; no finer than 24 bits
// allow. The origin moves from zero only where 24 bits from there do not reach that step.
// Throws native::ValueError for an empty mesh, an index out of range, a coordinate in use that is not
// finite and for a step or an origin that does not suit the mesh.
Grid choose_grid(const MeshInput& mesh, const GridOptions& options, int threads);

// Snaps, welds and drops triangles that have two corners on one grid point. Triangles without area but
// with three distinct corners stay: they draw nothing and keep their neighbours joined. Vertices on open
// borders keep their very floats where the origin is zero, so that assets which share a border meet.
// Throws native::ValueError when no triangle with area is left.
WeldedMesh weld(const MeshInput& mesh, const Grid& grid, int threads);

// The coarsest step, no coarser than that of `grid`, on which no triangle vanishes; 0 when 24 bits do not
// suffice. `origin` may be null.
double step_that_keeps(const MeshInput& mesh, const Grid& grid, const double* origin, int threads);

// True where every corner's normal is that of its triangle: such normals say nothing that the triangles do
// not, and only keep the mesh from being simplified.
bool is_facetted(const MeshInput& mesh, int threads);

constexpr int normal_bits = 11;  // of each octahedral coordinate: directions within an eighth of a degree
constexpr uint32_t normal_mask = (1u << normal_bits) - 1;

// A direction as two integers of normal_bits by the octahedral map; a zero vector becomes +z.
uint32_t encode_normal(const float* normal);

// A unit vector from its octahedral code, as weld() stores it.
void decode_normal(uint32_t code, float* normal);

// The grid of texture coordinates in use: a power of two, 16 bits across twice their median size. Throws
// native::ValueError for a coordinate of 1e18 or more.
float uv_step(const MeshInput& mesh);

// A texture coordinate as an integer: multiples of the step up to 2^24 of them, the bits of a float beyond,
// so that a wild coordinate costs the others nothing.
int32_t encode_uv(float value, float step);
float decode_uv(int32_t code, float step);

}  // namespace nanite_cull
