// A texture at a pixel: wrapped, filtered between texels and between levels of its pyramid (Williams,
// "Pyramidal Parametrics", SIGGRAPH 1983), the level chosen by the footprint that Heckbert ("Survey of
// Texture Mapping", 1986) and OpenGL take: the longer of the two steps, to the pixel on the right and to the
// one below.
//
// Texels are bytes, colours in sRGB; what is blended is linear. All is float32 in one order of operations, so
// a hole that an alpha test cuts is the same in every pass, view and thread, on host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/hd.h"

namespace nanite_cull {

constexpr int most_texture_levels = 15;     // 16384 texels
constexpr float wild_coordinate = 0x1p22f;  // beyond it texels cannot be told apart: taken as an edge

enum class Wrap : uint32_t { repeat, mirror, clamp };
enum class Filter : uint32_t { nearest, linear };
enum class MipFilter : uint32_t { off, nearest, linear };

struct Sampler {
  Wrap wrap[2] = {Wrap::repeat, Wrap::repeat};  // along u, along v
  Filter magnify = Filter::linear, minify = Filter::linear;
  MipFilter mip = MipFilter::linear;
};

// Borrowed: all levels one behind the other, each half of the one before, rounded down, at least one texel.
struct Texture {
  const uint32_t* texels = nullptr;  // red lowest, alpha highest
  const float* linear = nullptr;     // (256): of an sRGB byte
  int32_t width = 0, height = 0, levels = 0;
};

HD constexpr int32_t level_size(int32_t size, int level) { return size >> level > 0 ? size >> level : 1; }

// Linear, not multiplied by alpha.
struct Texel {
  float r = 1, g = 1, b = 1, a = 1;
};

// Where a pixel meets a texture, in pictures (u right, v down, 1 a whole one), and the steps to its
// neighbours.
struct Footprint {
  float u, v;
  float right[2], below[2];
};

HD inline Texel mix(const Texel& p, const Texel& q, float part) {
  return {p.r + part * (q.r - p.r), p.g + part * (q.g - p.g), p.b + part * (q.b - p.b),
          p.a + part * (q.a - p.a)};
}

// The binary logarithm of a positive normal float to 1e-7, by the series of the inverse hyperbolic tangent.
HD inline float log2_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  int exponent = static_cast<int>(bits >> 23) - 127;
  bits = (bits & 0x7fffffu) | 0x3f800000u;
  float m;
  memcpy(&m, &bits, 4);
  if (m > 1.41421356f) m *= 0.5f, ++exponent;
  const float t = (m - 1) / (m + 1), s = t * t;
  return float(exponent) + 2.88539008f * t * (1 + s * (1.0f / 3 + s * (1.0f / 5 + s * (1.0f / 7))));
}

// A coordinate brought into [0, 1].
HD inline float wrapped(Wrap wrap, float x) {
  if (!(magnitude(x) < wild_coordinate)) return wrap == Wrap::clamp && x > 0 ? 1.0f : 0.0f;
  if (wrap == Wrap::clamp) return least(most(x, 0.0f), 1.0f);
  if (wrap == Wrap::repeat) return x - floorf(x);
  const float pair = x - 2 * floorf(x * 0.5f);
  return pair > 1 ? 2 - pair : pair;
}

// A texel at most one outside of [0, size).
HD inline int32_t neighbour(Wrap wrap, int32_t i, int32_t size) {
  if (i >= 0 && i < size) return i;
  if (wrap == Wrap::repeat) return i < 0 ? size - 1 : 0;
  return i < 0 ? 0 : size - 1;
}

HD inline Texel fetch(const Texture& texture, const uint32_t* level, int32_t width, int32_t x, int32_t y) {
  const uint32_t t = level[int64_t(y) * width + x];
  const float* linear = texture.linear;
  return {linear[t & 255], linear[t >> 8 & 255], linear[t >> 16 & 255], float(t >> 24) * (1.0f / 255)};
}

HD inline Texel sample_level(const Texture& texture, const Sampler& sampler, Filter filter, int level,
                             float u, float v) {
  const uint32_t* texels = texture.texels;
  for (int l = 0; l < level; ++l)
    texels += int64_t(level_size(texture.width, l)) * level_size(texture.height, l);
  const int32_t width = level_size(texture.width, level), height = level_size(texture.height, level);
  const Wrap across = sampler.wrap[0], down = sampler.wrap[1];
  const float x = wrapped(across, u) * float(width), y = wrapped(down, v) * float(height);
  if (filter == Filter::nearest)
    return fetch(texture, texels, width, neighbour(across, static_cast<int32_t>(floorf(x)), width),
                 neighbour(down, static_cast<int32_t>(floorf(y)), height));
  const float left = floorf(x - 0.5f), top = floorf(y - 0.5f);
  const int32_t x0 = static_cast<int32_t>(left), y0 = static_cast<int32_t>(top);
  const int32_t columns[2] = {neighbour(across, x0, width), neighbour(across, x0 + 1, width)};
  const int32_t rows[2] = {neighbour(down, y0, height), neighbour(down, y0 + 1, height)};
  const float part = x - 0.5f - left;
  const Texel above = mix(fetch(texture, texels, width, columns[0], rows[0]),
                          fetch(texture, texels, width, columns[1], rows[0]), part);
  const Texel below = mix(fetch(texture, texels, width, columns[0], rows[1]),
                          fetch(texture, texels, width, columns[1], rows[1]), part);
  return mix(above, below, y - 0.5f - top);
}

// Levels of detail of a footprint: 0 and less where texels are magnified.
HD inline float level_of(const Texture& texture, const Footprint& at) {
  const float w = float(texture.width), h = float(texture.height);
  const float right = at.right[0] * w * (at.right[0] * w) + at.right[1] * h * (at.right[1] * h);
  const float below = at.below[0] * w * (at.below[0] * w) + at.below[1] * h * (at.below[1] * h);
  const float square = most(right, below);
  if (!(square > 1)) return 0;
  return square < 0x1p100f ? 0.5f * log2_of(square) : float(most_texture_levels);
}

HD inline Texel sample(const Texture& texture, const Sampler& sampler, const Footprint& at) {
  const float level = least(level_of(texture, at), float(texture.levels - 1));
  if (!(level > 0)) {
    // what a texture of one texel minifies is that texel
    return sample_level(texture, sampler, sampler.magnify, 0, at.u, at.v);
  }
  if (sampler.mip == MipFilter::off) return sample_level(texture, sampler, sampler.minify, 0, at.u, at.v);
  if (sampler.mip == MipFilter::nearest)
    return sample_level(texture, sampler, sampler.minify, static_cast<int>(level + 0.5f), at.u, at.v);
  const int fine = static_cast<int>(level), coarse = fine + 1 < texture.levels ? fine + 1 : fine;
  return mix(sample_level(texture, sampler, sampler.minify, fine, at.u, at.v),
             sample_level(texture, sampler, sampler.minify, coarse, at.u, at.v), level - float(fine));
}

}  // namespace nanite_cull
