// A group's clusters as bytes: triangles by meshoptimizer's index codec, vertices as Rice-coded
// differences from a parallelogram prediction (Touma and Gotsman, "Triangle Mesh Compression", 1998).
#pragma once

#include <string>
#include <vector>

#include "build/asset.h"

namespace nanite_cull {

// The integers behind a vertex: three of position, then two of the normal, two of the texture
// coordinate, four of the colour, one of the material, as far as the asset has them.
class VertexLayout {
 public:
  VertexLayout(bool normals, bool uvs, bool colors, bool materials)
      : normals_(normals), uvs_(uvs), colors_(colors), materials_(materials) {}
  int width() const { return 3 + 2 * normals_ + 2 * uvs_ + 4 * colors_ + materials_; }
  void read(const Asset& asset, uint32_t vertex, int32_t* out) const;
  // Appends a vertex to the asset's arrays; false when an integer is out of its range.
  bool append(const int32_t* values, Asset& asset) const;

 private:
  bool normals_, uvs_, colors_, materials_;
};

constexpr int max_vertex_width = 12;

std::vector<uint8_t> encode_group(const Asset& asset, const Group& group, const VertexLayout& layout);

// The decoded form, before vertices are shared between clusters.
struct DecodedGroup {
  std::vector<uint8_t> vertex_counts, triangle_counts;
  std::vector<int32_t> vertices;   // width() integers each, cluster after cluster
  std::vector<uint8_t> triangles;  // three local indices each
};

// Never reads outside [data, data + size); on bad input returns false and says why.
bool decode_group(const uint8_t* data, size_t size, int clusters, const VertexLayout& layout,
                  DecodedGroup& out, std::string& why);

}  // namespace nanite_cull
