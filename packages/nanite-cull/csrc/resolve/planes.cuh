// What pixels say by themselves, on a device: a thread a pixel, by the functions of core/ that the CPU calls.
//
//   cover_pixels      whether something was drawn
//   distance_pixels   along the view's axis
//   unproject_pixels  where in the world
//   list_visible      the clusters that were drawn, a thread each
#pragma once

#include "core/lens.h"
#include "core/unproject_pixel.h"
#include "raster/depth_pyramid.cuh"
#include "resolve/resolve_pass.cuh"

namespace nanite_cull::cuda {

DEV_FN float float_of(uint32_t bits) {
  float out;
  memcpy(&out, &bits, sizeof(out));
  return out;
}
constexpr uint32_t infinity_bits = 0x7f800000, nan_bits = 0x7fc00000;

DEV_KERNEL(resolve_threads) cover_pixels(const Count* pixels, int64_t count, uint8_t* out) {
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) out[i] = pixels[i] != 0;
}

// Infinite where nothing was drawn.
DEV_KERNEL(resolve_threads) distance_pixels(const Count* pixels, int64_t count, Lens lens, float* out) {
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count())
    out[i] = pixels[i] ? distance_of(lens, depth_of(pixels[i])) : float_of(infinity_bits);
}

// `out`: (height, width, 3); no number where nothing was drawn.
DEV_KERNEL(resolve_threads)
unproject_pixels(const Count* pixels, ImageSize image, BasicUnprojection<Wide> camera, float* out) {
  const int64_t count = int64_t(image.width) * image.height;
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    float* const place = out + 3 * i;
    if (pixels[i])
      place_of(camera, static_cast<int>(i % image.width), static_cast<int>(i / image.width),
               depth_of(pixels[i]), place);
    else
      place[0] = place[1] = place[2] = float_of(nan_bits);
  }
}

// `out`: (n, 2), instance and cluster; small ones first.
DEV_KERNEL(resolve_threads)
list_visible(const Visible* visible, const CullCounts* counts, uint32_t capacity, uint32_t* out) {
  const SlotOrder order(*counts, capacity);
  for (int64_t i = dev::thread_index(); i < order.count; i += dev::thread_count()) {
    const Visible v = visible[order.slot(i)];
    out[2 * i] = v.instance, out[2 * i + 1] = v.cluster;
  }
}

}  // namespace nanite_cull::cuda
