// The hierarchical depth buffer of a picture: each texel the farthest depth of the pixels it covers.
#pragma once

#include <cstdint>
#include <vector>

#include "core/occlusion.h"

namespace nanite_cull {

class DepthPyramid {
 public:
  // From width x height depths (reversed Z).
  void build(const float* depth, int width, int height, int threads);
  void clear() { width_ = height_ = 0; }

  // Valid until the pyramid changes; without levels while nothing was built.
  Hzb hzb() const;

  int width() const { return width_; }
  int height() const { return height_; }
  std::vector<float> texels;  // all levels, as core/hzb_layout.h has them

 private:
  int width_ = 0, height_ = 0;
};

}  // namespace nanite_cull
