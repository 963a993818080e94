#include "build/surfaces.h"

#include <algorithm>
#include <array>
#include <string>

#include "build/srgb.h"
#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

// Of sRGB's bytes: linear light.
const std::array<float, 256>& linear_of_bytes() {
  static const std::array<float, 256> table = [] {
    std::array<float, 256> t;
    for (int i = 0; i < 256; ++i) t[i] = float(exact_light(i / 255.0));
    return t;
  }();
  return table;
}

// The byte whose light is nearest.
uint32_t byte_of(float light) {
  const auto& table = linear_of_bytes();
  const auto above = std::lower_bound(table.begin(), table.end(), light);
  if (above == table.begin()) return 0;
  if (above == table.end()) return 255;
  const auto i = static_cast<uint32_t>(above - table.begin());
  return light - table[i - 1] < table[i] - light ? i - 1 : i;
}

// Which finer texels a coarser one covers along an axis, and how much of each: at most three, for a size of
// 2n + 1 becomes n.
struct Cover {
  int first = 0, count = 0;
  float weight[3] = {};

  Cover(int i, int coarse, int fine) {
    const double begin = double(i) * fine / coarse, end = double(i + 1) * fine / coarse;
    first = static_cast<int>(begin);
    for (int t = first; t < end - 1e-9 && count < 3; ++t)
      weight[count++] = float((std::min<double>(end, t + 1) - std::max<double>(begin, t)) / (end - begin));
  }
};

uint32_t mean_of(const uint32_t* fine, int width, const Cover& across, const Cover& down) {
  const auto& linear = linear_of_bytes();
  float light[3] = {0, 0, 0}, plain[3] = {0, 0, 0}, alpha = 0;
  for (int j = 0; j < down.count; ++j)
    for (int i = 0; i < across.count; ++i) {
      const uint32_t t = fine[int64_t(down.first + j) * width + across.first + i];
      const float weight = across.weight[i] * down.weight[j], a = float(t >> 24) * weight;
      for (int c = 0; c < 3; ++c)
        light[c] += linear[t >> (8 * c) & 255] * a, plain[c] += linear[t >> (8 * c) & 255] * weight;
      alpha += a;
    }
  uint32_t out = static_cast<uint32_t>(std::min(255.0f, alpha + 0.5f)) << 24;
  for (int c = 0; c < 3; ++c) out |= byte_of(alpha > 0 ? light[c] / alpha : plain[c]) << (8 * c);
  return out;
}

}  // namespace

MipChain::MipChain(const uint8_t* rgba, int height, int width, int threads)
    : width_(width), height_(height), levels_(1) {
  constexpr int most = 1 << (most_texture_levels - 1);
  native::demand(width >= 1 && height >= 1 && width <= most && height <= most, [&] {
    return "Material: a texture must have 1 to " + std::to_string(most) + " texels in each direction, got " +
           std::to_string(width) + " x " + std::to_string(height) + "; resize it first";
  });
  while (std::max(width, height) >> levels_ > 0) ++levels_;
  size_t total = 0;
  for (int l = 0; l < levels_; ++l) total += size_t(level_size(width, l)) * level_size(height, l);
  texels_.resize(total);
  std::memcpy(texels_.data(), rgba, size_t(width) * height * 4);
  uint32_t* fine = texels_.data();
  for (int l = 1; l < levels_; ++l) {
    const int fw = level_size(width, l - 1), fh = level_size(height, l - 1);
    const int w = level_size(width, l), h = level_size(height, l);
    uint32_t* coarse = fine + size_t(fw) * fh;
    std::vector<Cover> columns;
    for (int x = 0; x < w; ++x) columns.emplace_back(x, w, fw);
    native::parallel_for(h, std::max(1, 16384 / w), threads, [&](int64_t first, int64_t last) {
      for (int64_t y = first; y < last; ++y) {
        const Cover down(static_cast<int>(y), h, fh);
        for (int x = 0; x < w; ++x) coarse[y * w + x] = mean_of(fine, fw, columns[x], down);
      }
    });
    fine = coarse;
  }
}

Texture MipChain::texture() const {
  return {texels_.data(), linear_of_bytes().data(), width_, height_, levels_};
}

bool Surfaces::any_masked() const {
  return std::any_of(table.begin(), table.end(), [](const Surface& s) { return s.masked != 0; });
}
bool Surfaces::any_two_sided() const {
  return std::any_of(table.begin(), table.end(), [](const Surface& s) { return s.two_sided != 0; });
}
bool Surfaces::any_textured() const {
  return std::any_of(table.begin(), table.end(),
                     [](const Surface& s) { return s.texture.texels != nullptr; });
}

}  // namespace nanite_cull
