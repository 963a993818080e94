#include "resolve/shade.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr int strip = 64;  // columns that one thread sums at a time
constexpr float brightest = 1.2f;

// Distance along the axis, camera units; zero where nothing was drawn.
double along_axis(const Lens& lens, float depth) {
  if (!(depth > 0)) return 0;
  return lens.orthographic ? float(lens.far_distance - depth * (lens.far_distance - lens.near_distance))
                           : float(lens.near_distance) / depth;
}

// Sums of a plane and counts of what was drawn over squares of 2 * radius + 1 pixels, cut off at the edges:
// along rows first, then along columns.
class BoxSums {
 public:
  BoxSums(ShadePlanes& planes, int width, int height, int radius, int threads)
      : planes_(planes), width_(width), height_(height), radius_(radius) {
    native::parallel_for(height, 16, threads, [&](int64_t first, int64_t last) {
      std::vector<float> padded(width + 2 * radius + 1, 0.0f);  // zeros where there is no pixel
      const float *enter = padded.data() + 2 * radius + 1, *leave = padded.data();
      for (int64_t y = first; y < last; ++y) {
        std::copy_n(&planes.distance[size_t(y) * width], width, padded.data() + radius + 1);
        float *sums = &planes.sum[size_t(y) * width], *counts = &planes.count[size_t(y) * width];
        double sum = 0;
        int count = 0;
        for (int x = -2 * radius; x < 0; ++x) sum += enter[x], count += enter[x] > 0;
        for (int x = 0; x < width; ++x) {
          sum += double(enter[x]) - double(leave[x]);
          count += (enter[x] > 0) - (leave[x] > 0);
          sums[x] = static_cast<float>(sum), counts[x] = static_cast<float>(count);
        }
      }
    });
  }
  // Calls body(pixel, sum, count) for columns [begin, end), row by row.
  template <class Body>
  void each(int begin, int end, Body&& body) const {
    double sum[strip] = {};
    float count[strip] = {};
    auto add = [&](int y, float sign) {
      const float *sums = &planes_.sum[size_t(y) * width_ + begin],
                  *counts = &planes_.count[size_t(y) * width_ + begin];
      for (int x = 0; x < end - begin; ++x) sum[x] += sign * sums[x], count[x] += sign * counts[x];
    };
    for (int y = 0; y < std::min(radius_, height_); ++y) add(y, 1);
    for (int y = 0; y < height_; ++y) {
      if (y + radius_ < height_) add(y + radius_, 1);
      if (y > radius_) add(y - radius_ - 1, -1);
      for (int x = begin; x < end; ++x) body(size_t(y) * width_ + x, sum[x - begin], count[x - begin]);
    }
  }

 private:
  const ShadePlanes& planes_;
  int width_, height_, radius_;
};

// How much lower each pixel lies than its surroundings, in pixels at its distance, by the radius.
void find_hollows(const VisibilityBuffer& buffer, const Lens& lens, ShadePlanes& planes, int threads) {
  const int width = buffer.width, height = buffer.height;
  const size_t pixels = buffer.depth.size();
  for (auto* plane : {&planes.distance, &planes.hollow, &planes.sum, &planes.count}) plane->resize(pixels);
  native::parallel_for(pixels, 1 << 15, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      planes.distance[i] =
          static_cast<float>(along_axis(lens, buffer.depth[i])) / static_cast<float>(lens.scale);
      planes.hollow[i] = 0;
    }
  });
  for (int radius : {std::max(1, height / 180), std::max(2, height / 45)}) {
    const BoxSums sums(planes, width, height, radius, threads);
    native::parallel_for((width + strip - 1) / strip, 1, threads, [&](int64_t s, int64_t) {
      const int begin = static_cast<int>(s) * strip;
      sums.each(begin, std::min(width, begin + strip), [&](size_t at, double sum, float count) {
        const double here = planes.distance[at];
        if (!(here > 0)) return;
        const double pixel = lens.orthographic ? lens.pixel : here * lens.scale * lens.pixel;
        planes.hollow[at] += static_cast<float>((here - sum / count) / (pixel * radius));
      });
    });
  }
}

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
    for (int level = 1; level < 256; ++level) least_[level] = float(std::pow((level - 0.5) / 255, 1.1));
    for (int bin = 0, level = 0; bin <= bins; ++bin) {
      while (level < 255 && float(bin) / bins >= least_[level + 1]) ++level;
      start_[bin] = static_cast<uint8_t>(level);
    }
  }
  uint8_t of(float x) const {
    x = std::clamp(x, 0.0f, 1.0f);
    int level = start_[static_cast<int>(x * bins)];
    while (level < 255 && x >= least_[level + 1]) ++level;
    return static_cast<uint8_t>(level);
  }

 private:
  static constexpr int bins = 1024;
  float least_[256] = {};
  uint8_t start_[bins + 1];
};

// Lamp, sky and rim; both sides of a surface are lit.
float light_on(const float* n, const float* towards_eye, const float* lamp) {
  float towards = n[0] * towards_eye[0] + n[1] * towards_eye[1] + n[2] * towards_eye[2];
  const float side = towards < 0 ? -1.0f : 1.0f;
  const float lit = std::max(side * (n[0] * lamp[0] + n[1] * lamp[1] + n[2] * lamp[2]), 0.0f);
  const float sky = 0.5f + 0.5f * side * n[1], rim = 1 - std::fabs(towards);
  return (0.72f * lit + 0.26f * sky) + 0.10f * (rim * rim * rim);
}

void towards_eye(const Lens& lens, int x, int y, float* out) {
  const float* r = lens.rotation;
  float a = 0, b = 0, c = 1;
  if (!lens.orthographic) {
    a = -float(lens.ray_x[x]), b = -float(lens.ray_y[y]);
    c = 1 / std::sqrt(a * a + b * b + 1);
    a *= c, b *= c;
  }
  for (int i = 0; i < 3; ++i) out[i] = a * r[i] + b * r[3 + i] + c * r[6 + i];
}

// The planes that a base needs.
ResolveTargets targets_of(Base base, size_t pixels, ShadePlanes& planes) {
  ResolveTargets t;
  auto take = [&](auto& plane, int width) {
    plane.resize(width * pixels);
    return plane.data();
  };
  t.normal = take(planes.normal, 3);
  if (base == Base::color) t.color = take(planes.color, 4);
  if (base == Base::cluster) t.cluster = take(planes.id, 1), t.instance = take(planes.instance, 1);
  if (base == Base::triangle) t.triangle = take(planes.id, 1);
  if (base == Base::instance) t.instance = take(planes.id, 1);
  if (base == Base::level) t.level = take(planes.id, 1);
  return t;
}

void base_at(const ShadePlanes& planes, size_t pixel, const ShadeOptions& options, float* out) {
  if (options.base == Base::plain)
    out[0] = 0.80f, out[1] = 0.76f, out[2] = 0.70f;
  else if (options.base == Base::color)
    std::copy_n(&planes.color[4 * pixel], 3, out);
  else if (options.base == Base::level)
    ramp_color(options, float(planes.id[pixel]) / float(std::max(1u, options.top_level)), out);
  else if (options.base == Base::cluster)
    stable_color(planes.id[pixel] ^ planes.instance[pixel] << 20, out);
  else
    stable_color(planes.id[pixel], out);
}

}  // namespace

void unproject(const VisibilityBuffer& buffer, const Lens& lens, const double* m, const double* eye,
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
        const double along = along_axis(lens, buffer.depth[at]), across = lens.orthographic ? 1 : along;
        const double ray[3] = {across * lens.ray_x[x], across * lens.ray_y[y], -along};
        for (int i = 0; i < 3; ++i)
          p[i] = static_cast<float>(((ray[0] * m[3 * i] + ray[1] * m[3 * i + 1]) + ray[2] * m[3 * i + 2]) +
                                    eye[i]);
      }
  });
}

void shade(const Draws& draws, const View& view, const VisibleClusters& visible,
           const VisibilityBuffer& buffer, const Lens& lens, const ShadeOptions& options, ShadePlanes& planes,
           uint8_t* out, int threads) {
  static const Bytes bytes;
  resolve(draws, view, visible, buffer, targets_of(options.base, buffer.depth.size(), planes), threads);
  find_hollows(buffer, lens, planes, threads);
  native::parallel_for(buffer.height, 8, threads, [&](int64_t first, int64_t last) {
    for (int64_t y = first; y < last; ++y) {
      uint8_t background[3];
      for (int c = 0; c < 3; ++c) background[c] = bytes.of(options.background[3 * y + c]);
      for (int x = 0; x < buffer.width; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        uint8_t* to = out + 3 * at;
        if (!(buffer.depth[at] > 0)) {
          std::copy_n(background, 3, to);
          continue;
        }
        float eye[3], base[3];
        towards_eye(lens, x, static_cast<int>(y), eye);
        base_at(planes, at, options, base);
        const float relief = 1 - std::clamp(options.relief * planes.hollow[at], -0.12f, 0.4f);
        const float light =
            std::clamp(light_on(&planes.normal[3 * at], eye, options.light) * relief, 0.0f, brightest);
        for (int c = 0; c < 3; ++c) to[c] = bytes.of(base[c] * light);
      }
    }
  });
}

}  // namespace nanite_cull
