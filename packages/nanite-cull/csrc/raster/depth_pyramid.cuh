// Depth pyramids of images of one size on a device: a launch a level, a thread a texel. Texels lie as
// core/hzb_layout.h has them, and are those of raster/depth_pyramid.cpp.
#pragma once

#include <native/device.h>

#include <cstring>
#include <type_traits>

#include "core/occlusion.h"

namespace nanite_cull::cuda {

constexpr int pyramid_threads = 256;

DEV_FN float depth_of(float depth) { return depth; }
DEV_FN float depth_of(unsigned long long pixel) {  // a word of raster/raster.cuh
  const auto bits = static_cast<uint32_t>(pixel >> 32);
  float depth;
  memcpy(&depth, &bits, sizeof(depth));
  return depth;
}

// A level of each image, `pitch` texels apart.
template <class Texel>
struct PyramidLevel {
  Texel* texels;
  int64_t pitch;
};

// The farthest of the up to four texels of the finer level, (height, width), that each texel covers.
template <class Finer>
DEV_KERNEL(pyramid_threads)
halve_depths(PyramidLevel<const Finer> from, int width, int height, int64_t images, PyramidLevel<float> to) {
  const int out_width = (width + 1) / 2;
  const int64_t count = int64_t(out_width) * ((height + 1) / 2);
  for (int64_t i = dev::thread_index(); i < images * count; i += dev::thread_count()) {
    const int64_t image = i / count, at = i % count;
    const Finer* const finer = from.texels + image * from.pitch;
    const int x = static_cast<int>(at % out_width), y = static_cast<int>(at / out_width);
    const int x0 = 2 * x, x1 = least(x0 + 1, width - 1), y0 = 2 * y, y1 = least(y0 + 1, height - 1);
    const Finer *above = finer + int64_t(y0) * width, *below = finer + int64_t(y1) * width;
    to.texels[image * to.pitch + at] = least(least(depth_of(above[x0]), depth_of(above[x1])),
                                             least(depth_of(below[x0]), depth_of(below[x1])));
  }
}

inline int64_t pyramid_texels(int width, int height) {
  return hzb_offset(width, height, hzb_levels(width, height));
}

// Queues the pyramids of (images, height, width) words of pixels, or depths. `texels` has room for all levels
// of the first image, then of the next.
template <class Pixel>
void build_pyramids(const Pixel* pixels, int width, int height, int64_t images, float* texels,
                    dev::Stream stream) {
  const int64_t pitch = pyramid_texels(width, height);
  const auto launch = [&](auto from, int w, int h, float* out) {
    const int64_t count = images * ((w + 1) / 2) * ((h + 1) / 2);
    const int64_t blocks = dev::grid_blocks((count + pyramid_threads - 1) / pyramid_threads, 16);
    using Finer = std::remove_cv_t<std::remove_pointer_t<decltype(from.texels)>>;
    dev::launch(halve_depths<Finer>, blocks, pyramid_threads, 0, stream, from, w, h, images,
                PyramidLevel<float>{out, pitch});
  };
  launch(PyramidLevel<const Pixel>{pixels, int64_t(width) * height}, width, height, texels);
  for (int level = 1; level < hzb_levels(width, height); ++level)
    launch(PyramidLevel<const float>{texels + hzb_offset(width, height, level - 1), pitch},
           hzb_size(width, level - 1), hzb_size(height, level - 1),
           texels + hzb_offset(width, height, level));
}

inline Hzb hzb_of(const float* texels, int width, int height) {
  Hzb out;
  out.width = width, out.height = height, out.levels = hzb_levels(width, height);
  for (int level = 0; level < out.levels; ++level)
    out.level[level] = texels + hzb_offset(width, height, level);
  return out;
}

}  // namespace nanite_cull::cuda
