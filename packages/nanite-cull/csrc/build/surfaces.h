// The materials of an asset as the core draws them, and the pyramids of their textures.
#pragma once

#include <memory>
#include <vector>

#include "core/surface.h"

namespace nanite_cull {

// A picture with all its levels; shared by the materials that use it.
class MipChain {
 public:
  // From (height, width, 4) bytes, rows from the top, colours in sRGB. Every texel of a level is the mean, in
  // linear light and weighed by alpha, of the part of the finer level that it covers. Throws
  // native::ValueError for a picture without texels or of more than 16384 in a direction.
  MipChain(const uint8_t* rgba, int height, int width, int threads);

  Texture texture() const;
  size_t bytes() const { return texels_.size() * sizeof(uint32_t); }

 private:
  int width_, height_, levels_;
  std::vector<uint32_t> texels_;
};

struct Surfaces {
  std::vector<Surface> table;  // by material; what is not in it is opaque and white
  std::vector<std::shared_ptr<const MipChain>> textures;  // that the table borrows from

  bool any_masked() const;
  bool any_two_sided() const;
  bool any_textured() const;
  const Surface* of(uint32_t material) const { return material < table.size() ? &table[material] : nullptr; }
};

}  // namespace nanite_cull
