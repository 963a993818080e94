// Welding: a soup of triangles becomes grid points, wedges and faces that share them.
#pragma once

#include <cstdint>
#include <vector>

#include "build/asset.h"

namespace nanite_cull {

// Borrowed arrays of one mesh; optional ones may be null.
struct MeshInput {
  const float* positions = nullptr;     // (vertex_count, 3)
  const float* normals = nullptr;       // (vertex_count, 3), any length
  const float* uvs = nullptr;           // (vertex_count, 2)
  const float* colors = nullptr;        // (vertex_count, 4), 0 to 1
  const uint32_t* faces = nullptr;      // (face_count, 3)
  const uint32_t* materials = nullptr;  // (face_count)
  int64_t vertex_count = 0;
  int64_t face_count = 0;
};

// A wedge is a vertex with attributes; several may sit at one position (a seam).
struct WeldedMesh {
  float step = 1, uv_step = 1;
  float unit = 1;  // a power of two that brings coordinates to about one: what meshoptimizer is given
  std::vector<float> positions;       // (wedges, 3): integers times step, of at most 24 bits
  std::vector<uint32_t> position_of;  // (wedges) position id; empty where every wedge is its own position
  uint32_t position_count = 0;
  std::vector<float> normals, uvs, colors;
  std::vector<uint32_t> materials;
  std::vector<uint32_t> faces;   // (kept, 3) wedges
  std::vector<uint32_t> source;  // (kept) index of the face in the input
  uint64_t degenerate = 0;

  size_t wedge_count() const { return positions.size() / 3; }
  uint32_t position(uint32_t wedge) const { return position_of.empty() ? wedge : position_of[wedge]; }
};

// The step of the mesh grid: a power of two, fine enough for 16 bits across the mesh and for a sixteenth
// of its short edges, and no finer than 24 bits allow. `bits` > 0 asks for that many bits across instead.
// Throws native::ValueError for an empty mesh, an index out of range and coordinates that are not finite.
float grid_step(const MeshInput& mesh, int bits, int threads);

// Snaps, welds and drops triangles that have two corners on one grid point. Triangles without area but
// with three distinct corners stay: they draw nothing and keep their neighbours joined.
// Throws native::ValueError when no triangle with area is left.
WeldedMesh weld(const MeshInput& mesh, float step, int threads);

constexpr int normal_bits = 11;  // of each octahedral coordinate: directions within an eighth of a degree
constexpr uint32_t normal_mask = (1u << normal_bits) - 1;

// A direction as two integers of normal_bits by the octahedral map; a zero vector becomes +z.
uint32_t encode_normal(const float* normal);

// A unit vector from its octahedral code, as weld() stores it.
void decode_normal(uint32_t code, float* normal);

// The grid of texture coordinates: a power of two, 16 bits across the largest of them. Throws
// native::ValueError for a coordinate of 1e18 or more.
float uv_step(const float* uvs, int64_t count);

}  // namespace nanite_cull
