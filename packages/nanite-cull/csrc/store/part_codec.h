// A part's clusters as bytes. Triangles are a walk over edges (after Gumhold and Strasser, "Real Time
// Compression of Triangle Mesh Connectivity", 1998); vertices are differences from the parallelogram across
// the edge by which the walk reached them (Touma and Gotsman, "Triangle Mesh Compression", 1998), eight of
// one component at a time in as many bits as the largest takes, so that no number waits for the one before.
// What an earlier cluster of the part has is named, not repeated.
//
//   clusters x   vertex count, triangle count: a byte each
//   bits, for each cluster: its triangles; which vertices are new; for each component the first
//   value and the differences
//   8 zero bytes, so that a reader may take whole words
#pragma once

#include <string>
#include <vector>

#include "build/asset.h"

namespace nanite_cull {

// The integers behind a vertex: three of position, three of the distance of its floats from the grid's in
// units of the last place, two of the normal, two of the texture coordinate, four of the colour, one of the
// material, as far as the asset has them.
class VertexLayout {
 public:
  explicit VertexLayout(uint32_t flags);  // of ncl_format.h
  int width() const { return 3 + 3 * exact_ + 2 * normals_ + 2 * uvs_ + 4 * colors_ + materials_; }
  void read(const Asset& asset, uint32_t vertex, int32_t* out) const;
  // Appends vertices of width() integers; false when an integer is out of its range.
  bool append(const int32_t* values, size_t count, Vertices& out) const;
  bool append(const std::vector<int32_t>& values, Vertices& out) const;
  // Bytes of a vertex in memory.
  uint64_t memory() const { return 4 * (3 + 3 * normals_ + 2 * uvs_ + 4 * colors_ + materials_); }
  // Makes room for so many vertices and no more.
  void reserve(size_t vertices, Vertices& out) const;

 private:
  bool put(const int32_t* values, size_t at, Vertices& out) const;
  void resize(size_t vertices, Vertices& out) const;

  bool exact_, normals_, uvs_, colors_, materials_;
};

constexpr int max_vertex_width = 15;

// Whether some vertex's float is not its grid point's.
bool has_exact_floats(const Asset& asset);

std::vector<uint8_t> encode_part(const Asset& asset, uint32_t cluster_begin, uint32_t clusters,
                                 const VertexLayout& layout);

// The decoded form, before vertices are shared between clusters.
struct DecodedPart {
  std::vector<uint8_t> vertex_counts, triangle_counts;
  std::vector<int32_t> vertices;   // width() integers each, cluster after cluster
  std::vector<uint8_t> triangles;  // three local indices each
};

// Never reads outside [data, data + size); on bad input returns false and says why. `out` may hold an earlier
// part: its memory is used again.
bool decode_part(const uint8_t* data, size_t size, uint32_t clusters, const VertexLayout& layout,
                 DecodedPart& out, std::string& why);

}  // namespace nanite_cull
