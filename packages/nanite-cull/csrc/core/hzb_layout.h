// The hierarchical depth buffer: halved sizes, rounded up, so that a texel covers every texel below it at any
// image size; and which level holds a rectangle in a few texels.
#pragma once

#include <cstdint>

#include "core/hd.h"

namespace nanite_cull {

constexpr int hzb_texels = 4;  // a rectangle is tested against at most so many, each way

// Level 0 has half the image's size.
HD constexpr int hzb_size(int pixels, int level) {
  for (int i = 0; i <= level; ++i) pixels = (pixels + 1) / 2;
  return pixels;
}

// Levels down to one texel.
HD constexpr int hzb_levels(int width, int height) {
  int levels = 1;
  while (hzb_size(width, levels - 1) > 1 || hzb_size(height, levels - 1) > 1) ++levels;
  return levels;
}

// Texels of all levels before `level`: levels lie one behind the other.
HD constexpr int64_t hzb_offset(int width, int height, int level) {
  int64_t sum = 0;
  for (int i = 0; i < level; ++i) sum += int64_t(hzb_size(width, i)) * hzb_size(height, i);
  return sum;
}

// The finest level on which pixels [x0, x1] and [y0, y1] touch at most hzb_texels texels each way.
HD constexpr int hzb_level(int x0, int y0, int x1, int y1) {
  int level = 0;
  while ((x1 >> (level + 1)) - (x0 >> (level + 1)) >= hzb_texels ||
         (y1 >> (level + 1)) - (y0 >> (level + 1)) >= hzb_texels)
    ++level;
  return level;
}

}  // namespace nanite_cull
