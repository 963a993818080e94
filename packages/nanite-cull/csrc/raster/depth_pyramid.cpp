#include "raster/depth_pyramid.h"

#include <algorithm>

#include "native/parallel.h"

namespace nanite_cull {

namespace {

// One row of a level from the one or two rows of the finer level below it.
void halve(const float* above, const float* below, int width, float* out) {
  const int pairs = width / 2;
  for (int x = 0; x < pairs; ++x)
    out[x] = least(least(above[2 * x], above[2 * x + 1]), least(below[2 * x], below[2 * x + 1]));
  if (width % 2) out[pairs] = least(above[width - 1], below[width - 1]);
}

}  // namespace

void DepthPyramid::build(const float* depth, int width, int height, int threads) {
  width_ = width, height_ = height;
  const int levels = hzb_levels(width, height);
  texels.resize(hzb_offset(width, height, levels));
  const float* finer = depth;
  for (int level = 0, w = width, h = height; level < levels; ++level) {
    float* out = texels.data() + hzb_offset(width, height, level);
    const int out_w = hzb_size(width, level), out_h = hzb_size(height, level);
    native::parallel_for(out_h, std::max(16, 65536 / out_w), threads, [&](int64_t first, int64_t last) {
      for (int64_t y = first; y < last; ++y) {
        const int64_t above = 2 * y, below = std::min<int64_t>(above + 1, h - 1);
        halve(finer + above * w, finer + below * w, w, out + y * out_w);
      }
    });
    finer = out, w = out_w, h = out_h;
  }
}

Hzb DepthPyramid::hzb() const {
  Hzb out;
  if (width_ == 0) return out;
  out.width = width_, out.height = height_, out.levels = hzb_levels(width_, height_);
  for (int level = 0; level < out.levels; ++level)
    out.level[level] = texels.data() + hzb_offset(width_, height_, level);
  return out;
}

}  // namespace nanite_cull
