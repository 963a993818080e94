// One mesh as it is given to the build.
#pragma once

#include <cstdint>

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

}  // namespace nanite_cull
