// From the visibility buffer to light and pictures on a device: a thread a pixel, by the functions of core/
// that the CPU calls.
//
//   measure_pixels  distances, for hollows
//   double_sums     of windows: blocks of twice as many numbers, along rows or columns
//   take_sums       adds a block to the window of each pixel
//   light_pixels    which share of each light arrives, and what all add
//   shade_pixels    the picture
#pragma once

#include "core/hollow.h"
#include "core/light_pixel.h"
#include "core/shade_pixel.h"
#include "raster/depth_pyramid.cuh"
#include "resolve/resolve_pass.cuh"

namespace nanite_cull::cuda {

// Of distances and of drawn pixels.
struct WindowSum {
  float sum, count;
};

// A plane of an image with room for `pad` numbers before each row, or before each column, which are zero.
struct SumPlane {
  ImageSize image;
  int pad;
  bool down;  // windows are of columns

  HD int width() const { return image.width + (down ? 0 : pad); }
  HD int height() const { return image.height + (down ? pad : 0); }
  HD int length() const { return down ? height() : width(); }
  HD int64_t step() const { return down ? width() : 1; }
  HD int64_t count() const { return int64_t(width()) * height(); }
  HD int place(int64_t i) const { return static_cast<int>(down ? i / width() : i % width()); }
  HD int64_t pixel(int x, int y) const { return int64_t(y) * width() + x; }  // `pad` before it
};

DEV_KERNEL(resolve_threads) measure_pixels(const Count* pixels, Lens lens, SumPlane plane, WindowSum* out) {
  for (int64_t i = dev::thread_index(); i < plane.count(); i += dev::thread_count()) {
    const int x = static_cast<int>(i % plane.width()) - plane.pad, y = static_cast<int>(i / plane.width());
    const Count word = x < 0 ? 0 : pixels[int64_t(y) * plane.image.width + x];
    out[i] = {distance_of(lens, depth_of(word)), word == 0 ? 0.0f : 1.0f};
  }
}

DEV_KERNEL(resolve_threads)
double_sums(const WindowSum* from, SumPlane plane, int power, WindowSum* to) {
  for (int64_t i = dev::thread_index(); i < plane.count(); i += dev::thread_count()) {
    WindowSum out = from[i];
    if (plane.place(i) + power < plane.length()) {
      const WindowSum& other = from[i + power * plane.step()];
      out.sum += other.sum, out.count += other.count;
    }
    to[i] = out;
  }
}

// `shift`: from `pad` before a pixel to the block. `out`: (height, width).
DEV_KERNEL(resolve_threads)
take_sums(const WindowSum* from, SumPlane plane, int shift, WindowSum* out) {
  const int64_t count = int64_t(plane.image.width) * plane.image.height;
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const int x = static_cast<int>(i % plane.image.width), y = static_cast<int>(i / plane.image.width);
    if ((plane.down ? y : x) + shift >= plane.length()) continue;
    const WindowSum& block = from[plane.pixel(x, y) + shift * plane.step()];
    out[i].sum += block.sum, out[i].count += block.count;
  }
}

DEV_KERNEL(resolve_threads)
light_pixels(ResolvePass pass, Lens lens, SeenLights lights, LightTargets targets) {
  const int64_t count = int64_t(pass.image.width) * pass.image.height;
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const Count word = pass.pixels[i];
    if (word == 0) {
      light_nothing(lights, i, count, targets);
      continue;
    }
    DrawnTriangle triangle;
    drawn_triangle(pass, static_cast<uint32_t>(word & 0xffffffffu), light_wants(), triangle);
    const LitPoint point = lit_point(lens, triangle, static_cast<int>(i % pass.image.width),
                                     static_cast<int>(i / pass.image.width), pass.image, depth_of(word));
    light_pixel(lights, point, i, count, targets);
  }
}

// `sums`: (height, width) of the small squares and of the large ones. `out`: (height, width, 3).
DEV_KERNEL(resolve_threads)
shade_pixels(ResolvePass pass, Lens lens, Shading shading, const WindowSum* small, const WindowSum* large,
             uint8_t* out) {
  const int64_t count = int64_t(pass.image.width) * pass.image.height;
  const HollowRadii radii = hollow_radii(pass.image.height);
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const int x = static_cast<int>(i % pass.image.width), y = static_cast<int>(i / pass.image.width);
    const Count word = pass.pixels[i];
    if (word == 0) {
      shade_nothing(shading, y, out + 3 * i);
      continue;
    }
    DrawnTriangle triangle;
    const uint32_t instance =
        drawn_triangle(pass, static_cast<uint32_t>(word & 0xffffffffu), shading.wants(), triangle);
    float normal[3], base[3];
    base_pixel(shading, triangle, instance, x, y, pass.image, normal, base);
    const float distance = distance_of(lens, depth_of(word));
    const float hollow = hollow_of(distance, small[i].sum, small[i].count, HollowScale(lens, radii.small)) +
                         hollow_of(distance, large[i].sum, large[i].count, HollowScale(lens, radii.large));
    shade_pixel(shading, lens, x, y, pass.image.width, normal, base, hollow, out + 3 * i);
  }
}

}  // namespace nanite_cull::cuda
