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
constexpr float lamp_strength = 0.72f, brightest = 1.2f;

// The same id has the same colour in every picture.
void stable_color(uint32_t id, float* out) {
  uint32_t h = id * 0x9E3779B1u;
  h ^= h >> 15;
  h *= 0x85EBCA77u;
  h ^= h >> 13;
  for (int c = 0; c < 3; ++c) out[c] = 0.25f + 0.75f * (float(h >> (8 * c) & 255) / 255);
}

void ramp_color(const ShadeOptions& options, float value, float* out) {
  const float at = std::clamp(value, 0.0f, 1.0f) * float(options.ramp_size - 1);
  const int low = std::min(static_cast<int>(at), options.ramp_size - 2);
  const float part = at - float(low), *a = options.ramp + 3 * low, *b = a + 3;
  for (int c = 0; c < 3; ++c) out[c] = a[c] * (1 - part) + b[c] * part;
}

// x to the power 1 / 1.1 as a byte, by the least x of each byte.
class Bytes {
 public:
  Bytes() {
    least_[256] = std::numeric_limits<float>::infinity();
    for (int level = 1; level < 256; ++level) least_[level] = float(std::pow((level - 0.5) / 255, 1.1));
    for (int bin = 0, level = 0; bin <= bins; ++bin) {
      while (level < 255 && float(bin) / bins >= least_[level + 1]) ++level;
      start_[bin] = static_cast<uint8_t>(level);
    }
  }
  uint8_t of(float x) const {
    x = std::clamp(x, 0.0f, 1.0f);
    const int level = start_[static_cast<int>(x * bins)];  // a bin is narrower than any level
    return static_cast<uint8_t>(level + (x >= least_[level + 1]));
  }

 private:
  static constexpr int bins = 1024;
  float least_[257] = {};
  uint8_t start_[bins + 1];
};

// A lamp without shadows; both sides of a surface are lit.
float lamp_on(const float* n, const float* towards_eye, const float* lamp) {
  const float towards = n[0] * towards_eye[0] + n[1] * towards_eye[1] + n[2] * towards_eye[2];
  const float side = towards < 0 ? -1.0f : 1.0f;
  return lamp_strength * std::max(side * (n[0] * lamp[0] + n[1] * lamp[1] + n[2] * lamp[2]), 0.0f);
}

// What falls on a surface directly, the sky and the rim.
float light_on(const float* n, const float* towards_eye, float direct) {
  const float towards = n[0] * towards_eye[0] + n[1] * towards_eye[1] + n[2] * towards_eye[2];
  const float side = towards < 0 ? -1.0f : 1.0f;
  const float sky = 0.5f + 0.5f * side * n[1], rim = 1 - std::fabs(towards);
  return (direct + 0.26f * sky) + 0.10f * (rim * rim * rim);
}

// The colour of a pixel's triangle before light falls on it.
void base_of(const Interpolator& tri, const Visible& visible, const View& view, int x, int y,
             const float* weight, const ShadeOptions& options, float* out) {
  float color[4];
  switch (options.base) {
    case Base::plain: out[0] = 0.80f, out[1] = 0.76f, out[2] = 0.70f; return;
    case Base::color: {
      tri.color(weight, color);
      const Texel texel = tri.texel(x, y, view.width, view.height);
      const float light[3] = {texel.r, texel.g, texel.b};
      for (int c = 0; c < 3; ++c)
        out[c] = tri.linear_colors ? display_of(color[c] * light[c]) : color[c] * display_of(light[c]);
      return;
    }
    case Base::cluster: return stable_color(tri.cluster ^ visible.instance << 20, out);
    case Base::triangle: return stable_color(tri.triangle, out);
    case Base::instance: return stable_color(visible.instance, out);
    case Base::level:
      return ramp_color(options, float(tri.level) / float(std::max(1u, options.top_level)), out);
  }
}

struct Area {  // columns [x0, x1), rows [y0, y1)
  int x0, y0, x1, y1;
};

// What a frame saw.
struct Seen {
  const Draws& draws;
  const View& view;
  const VisibleClusters& visible;
  const VisibilityBuffer& buffer;
};

// Row by row: first what the triangles say, then the light on them. Apart, the many waits for memory of the
// first overlap.
class TileShader {
 public:
  void shade(const Seen& seen, const Lens& lens, const ShadeOptions& options, const Area& tile,
             uint8_t* out) {
    static const Bytes bytes;
    hollows_.find(seen.buffer, lens, tile.x0, tile.y0, tile.x1, tile.y1);
    triangles_.forget();
    for (int y = tile.y0; y < tile.y1; ++y) {
      const size_t row = size_t(y) * seen.buffer.width;
      read_row(seen, options, tile, y);
      uint8_t background[3];
      for (int c = 0; c < 3; ++c) background[c] = bytes.of(options.background[3 * y + c]);
      for (int x = tile.x0; x < tile.x1; ++x) {
        uint8_t* to = out + 3 * (row + x);
        if (!(seen.buffer.depth[row + x] > 0)) {
          std::copy_n(background, 3, to);
          continue;
        }
        const float *normal = normal_[x - tile.x0], *base = base_[x - tile.x0];
        float eye[3];
        towards_eye(lens, x, y, eye);
        const float relief = 1 - std::clamp(options.relief * hollows_.at(x, y), -0.12f, 0.4f);
        const float direct = options.direct ? options.direct[row + x] : lamp_on(normal, eye, options.light);
        const float light = std::clamp(light_on(normal, eye, direct) * relief, 0.0f, brightest);
        for (int c = 0; c < 3; ++c) to[c] = bytes.of(base[c] * light);
      }
    }
  }

 private:
  void read_row(const Seen& seen, const ShadeOptions& options, const Area& tile, int y) {
    const Wants wants{true, false, options.base == Base::color, false, options.base == Base::color};
    for (int x = tile.x0; x < tile.x1; ++x) {
      const size_t at = size_t(y) * seen.buffer.width + x;
      if (x + ahead < tile.x1 && seen.buffer.depth[at + ahead] > 0)
        triangles_.expect(seen.draws, seen.visible, seen.buffer.id[at + ahead]);
      if (!(seen.buffer.depth[at] > 0)) continue;
      const uint32_t id = seen.buffer.id[at];
      const Interpolator& tri = triangles_.of(seen.draws, seen.visible, id, wants);
      float weight[3] = {0, 0, 0};
      if (tri.interpolates) tri.weights(x, y, seen.view.width, seen.view.height, weight);
      tri.normal(weight, normal_[x - tile.x0]);
      base_of(tri, seen.visible.buffer[id >> triangle_bits], seen.view, x, y, weight, options,
              base_[x - tile.x0]);
    }
  }

  Hollows hollows_;
  RecentTriangles triangles_;
  float normal_[tile_width][3], base_[tile_width][3];
};

}  // namespace

void unproject(const VisibilityBuffer& buffer, const Lens& lens, const double* to_world, const double* eye,
               float* out, int threads) {
  native::parallel_for(buffer.height, 8, threads, [&](int64_t first, int64_t last) {
    for (int64_t y = first; y < last; ++y)
      for (int x = 0; x < buffer.width; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        float* p = out + 3 * at;
        if (!(buffer.depth[at] > 0)) {
          p[0] = p[1] = p[2] = std::numeric_limits<float>::quiet_NaN();
          continue;
        }
        double place[3];
        unproject_pixel(lens, to_world, eye, x, static_cast<int>(y), buffer.depth[at], place);
        for (int i = 0; i < 3; ++i) p[i] = static_cast<float>(place[i]);
      }
  });
}

void shade(const Draws& draws, const View& view, const VisibleClusters& visible,
           const VisibilityBuffer& buffer, const Lens& lens, const ShadeOptions& options, uint8_t* out,
           int threads) {
  const int columns = (buffer.width + tile_width - 1) / tile_width,
            rows = (buffer.height + tile_height - 1) / tile_height;
  const Seen seen{draws, view, visible, buffer};
  native::parallel_for(int64_t(columns) * rows, 1, threads, [&](int64_t t, int64_t) {
    // kept: fresh memory costs more than what is done with it
    thread_local const auto shader = std::make_unique<TileShader>();
    const int x0 = static_cast<int>(t % columns) * tile_width,
              y0 = static_cast<int>(t / columns) * tile_height;
    const Area tile{x0, y0, std::min(x0 + tile_width, buffer.width),
                    std::min(y0 + tile_height, buffer.height)};
    shader->shade(seen, lens, options, tile, out);
  });
}

}  // namespace nanite_cull
