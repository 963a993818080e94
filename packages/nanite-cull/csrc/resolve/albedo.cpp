#include "resolve/albedo.h"

#include <algorithm>

#include "build/srgb.h"
#include "core/resolve_pixel.h"
#include "native/parallel.h"
#include "resolve/interpolator.h"

namespace nanite_cull {

namespace {

constexpr int tile_width = 256, tile_height = 64;  // what one thread bins at a time

// Numbers for all materials of a frame; 0 for those without a texture.
class MaterialBins {
 public:
  explicit MaterialBins(const Draws& draws) {
    for (const auto& asset : draws.assets) {
      first_.push_back(count_);
      if (asset->surfaces) count_ += static_cast<uint32_t>(asset->surfaces->table.size());
    }
  }
  uint32_t count() const { return count_; }
  uint32_t of(uint32_t asset, const Surfaces* surfaces, uint32_t material) const {
    return material_bin(surfaces ? surfaces->of(material) : nullptr, first_[asset], material);
  }

 private:
  std::vector<uint32_t> first_;
  uint32_t count_ = 1;
};

uint32_t material_of(const Draws& draws, const VisibleClusters& visible, uint32_t id, uint32_t asset) {
  const ClusterGeometry g = draws.geometry(asset, visible.buffer[id >> triangle_bits].cluster);
  if (g.vertices->materials.empty()) return 0;
  return g.vertices->materials[g.vertex(g.triangles[3 * (id & ((1u << triangle_bits) - 1))])];
}

}  // namespace

void resolve_albedo(const Draws& draws, const View& view, const VisibleClusters& visible,
                    const VisibilityBuffer& buffer, float* out, int threads) {
  const MaterialBins bins(draws);
  const ImageSize image{view.width, view.height};
  const float* const light = light_table();
  const int columns = (buffer.width + tile_width - 1) / tile_width,
            rows = (buffer.height + tile_height - 1) / tile_height;
  native::parallel_for(int64_t(columns) * rows, 1, threads, [&](int64_t t, int64_t) {
    const int x0 = static_cast<int>(t % columns) * tile_width, x1 = std::min(x0 + tile_width, buffer.width);
    const int y0 = static_cast<int>(t / columns) * tile_height,
              y1 = std::min(y0 + tile_height, buffer.height);
    std::vector<uint32_t> bin_of, begin(bins.count() + 1, 0);
    uint32_t last_id = none, last_bin = 0;
    for (int y = y0; y < y1; ++y)
      for (int x = x0; x < x1; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        const uint32_t id = buffer.id[at];
        if (!(buffer.depth[at] > 0)) {
          bin_of.push_back(none);
          std::fill_n(out + 4 * at, 4, 0.0f);
          continue;
        }
        if (id != last_id) {
          const uint32_t asset = draws.draws[draws.of[id >> triangle_bits]].asset;
          last_bin =
              bins.of(asset, draws.assets[asset]->surfaces.get(), material_of(draws, visible, id, asset));
          last_id = id;
        }
        bin_of.push_back(last_bin), ++begin[last_bin + 1];
      }
    for (uint32_t b = 0; b < bins.count(); ++b) begin[b + 1] += begin[b];
    std::vector<uint32_t> pixels(begin.back());
    for (uint32_t i = 0; i < bin_of.size(); ++i)
      if (bin_of[i] != none) pixels[begin[bin_of[i]]++] = i;

    Interpolator tri;
    for (uint32_t i : pixels) {
      const int x = x0 + static_cast<int>(i) % (x1 - x0), y = y0 + static_cast<int>(i) / (x1 - x0);
      const size_t at = size_t(y) * buffer.width + x;
      if (!tri.valid || tri.id != buffer.id[at]) tri.prepare(draws, visible, buffer.id[at], albedo_wants());
      albedo_of(tri, x, y, image, light, out + 4 * at);
    }
  });
}

}  // namespace nanite_cull
