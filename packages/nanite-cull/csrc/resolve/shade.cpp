#include "resolve/shade.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "build/srgb.h"
#include "native/parallel.h"
#include "resolve/hollows.h"
#include "resolve/interpolator.h"

namespace nanite_cull {

namespace {

constexpr int tile_width = 256, tile_height = 64;  // what one thread shades at a time
constexpr int ahead = 16;  // pixels from asking for a triangle's corners to using them

struct Area {  // columns [x0, x1), rows [y0, y1)
  int x0, y0, x1, y1;
};

// What a frame saw.
struct Seen {
  const Draws& draws;
  const VisibleClusters& visible;
  const VisibilityBuffer& buffer;

  ImageSize image() const { return {buffer.width, buffer.height}; }
};

// Row by row: first what the triangles say, then the light on them. Apart, the many waits for memory of the
// first overlap.
class TileShader {
 public:
  void shade(const Seen& seen, const Lens& lens, const Shading& shading, const Area& tile, uint8_t* out) {
    hollows_.find(seen.buffer, lens, tile.x0, tile.y0, tile.x1, tile.y1);
    triangles_.forget();
    for (int y = tile.y0; y < tile.y1; ++y) {
      const size_t row = size_t(y) * seen.buffer.width;
      read_row(seen, shading, tile, y);
      uint8_t background[3];
      shade_nothing(shading, y, background);
      for (int x = tile.x0; x < tile.x1; ++x) {
        uint8_t* to = out + 3 * (row + x);
        if (seen.buffer.depth[row + x] > 0)
          shade_pixel(shading, lens, x, y, seen.buffer.width, normal_[x - tile.x0], base_[x - tile.x0],
                      hollows_.at(x, y), to);
        else
          std::copy_n(background, 3, to);
      }
    }
  }

 private:
  void read_row(const Seen& seen, const Shading& shading, const Area& tile, int y) {
    const Wants wants = shading.wants();
    for (int x = tile.x0; x < tile.x1; ++x) {
      const size_t at = size_t(y) * seen.buffer.width + x;
      if (x + ahead < tile.x1 && seen.buffer.depth[at + ahead] > 0)
        triangles_.expect(seen.draws, seen.visible, seen.buffer.id[at + ahead]);
      if (!(seen.buffer.depth[at] > 0)) continue;
      const Interpolator& tri = triangles_.of(seen.draws, seen.visible, seen.buffer.id[at], wants);
      base_pixel(shading, tri, tri.draw->instance, x, y, seen.image(), normal_[x - tile.x0],
                 base_[x - tile.x0]);
    }
  }

  Hollows hollows_;
  RecentTriangles triangles_;
  float normal_[tile_width][3], base_[tile_width][3];
};

ByteTable make_byte_table() {
  ByteTable out;
  out.least_of[byte_levels] = std::numeric_limits<float>::infinity();
  for (int level = 1; level < byte_levels; ++level)
    out.least_of[level] = float(std::pow((level - 0.5) / 255, 1.1));
  for (int bin = 0, level = 0; bin <= byte_bins; ++bin) {
    while (level < 255 && float(bin) / byte_bins >= out.least_of[level + 1]) ++level;
    out.start[bin] = static_cast<uint8_t>(level);
  }
  return out;
}

}  // namespace

const ByteTable& byte_table() {
  static const ByteTable table = make_byte_table();
  return table;
}

void shade(const Draws& draws, const VisibleClusters& visible, const VisibilityBuffer& buffer,
           const Lens& lens, Shading shading, uint8_t* out, int threads) {
  shading.bytes = &byte_table(), shading.display = display_table();
  const int columns = (buffer.width + tile_width - 1) / tile_width,
            rows = (buffer.height + tile_height - 1) / tile_height;
  const Seen seen{draws, visible, buffer};
  native::parallel_for(int64_t(columns) * rows, 1, threads, [&](int64_t t, int64_t) {
    // kept: fresh memory costs more than what is done with it
    thread_local const auto shader = std::make_unique<TileShader>();
    const int x0 = static_cast<int>(t % columns) * tile_width,
              y0 = static_cast<int>(t / columns) * tile_height;
    const Area tile{x0, y0, std::min(x0 + tile_width, buffer.width),
                    std::min(y0 + tile_height, buffer.height)};
    shader->shade(seen, lens, shading, tile, out);
  });
}

}  // namespace nanite_cull
