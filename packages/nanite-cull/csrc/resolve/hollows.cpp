#include "resolve/hollows.h"

#include <algorithm>

#include "resolve/hollow_rows.h"

namespace nanite_cull {

namespace {

bool any_drawn(const VisibilityBuffer& buffer, int x0, int y0, int x1, int y1) {
  for (int y = y0; y < y1; ++y) {
    const float* row = &buffer.depth[size_t(y) * buffer.width];
    if (std::any_of(row + x0, row + x1, [](float depth) { return depth > 0; })) return true;
  }
  return false;
}

}  // namespace

void Hollows::sum_rows(const VisibilityBuffer& buffer, const Lens& lens) {
  const int halo = squares_[1].radius;
  const float near_distance = float(lens.near_distance), scale = float(lens.scale);
  const int begin = std::max(0, x0_ - halo), end = std::min(buffer.width, x0_ + width_ + halo);
  std::fill(line_.begin(), line_.end(), 0.0f), std::fill(seen_.begin(), seen_.end(), 0.0f);
  for (int y = first_row_; y < last_row_; ++y) {
    const float* depth = &buffer.depth[size_t(y) * buffer.width + begin];
    float *line = &line_[begin - (x0_ - halo)], *seen = &seen_[begin - (x0_ - halo)];
    if (lens.orthographic)
      for (int x = 0; x < end - begin; ++x)
        line[x] = float(along_axis(lens, depth[x])) / scale, seen[x] = depth[x] > 0 ? 1.0f : 0.0f;
    else
      NATIVE_CALL_ISA(perspective_distances)(depth, end - begin, near_distance, scale, line, seen);
    if (y >= y0_ && y < y0_ + height_) std::copy_n(&line_[halo], width_, &distance_[(y - y0_) * width_]);
    for (Square& s : squares_) {
      const size_t row = size_t(y - first_row_) * width_;
      const int window = 2 * s.radius + 1;
      NATIVE_CALL_ISA(window_sums)(&line_[halo - s.radius], width_, window, doubled_.data(), &s.sum[row]);
      NATIVE_CALL_ISA(window_sums)(&seen_[halo - s.radius], width_, window, doubled_.data(), &s.count[row]);
    }
  }
}

void Hollows::sum_columns(const Square& s, const Lens& lens) {
  std::fill(column_sum_.begin(), column_sum_.end(), 0.0);
  std::fill(column_count_.begin(), column_count_.end(), 0.0f);
  auto add = [&](int y, float sign) {
    if (y < first_row_ || y >= last_row_) return;
    const size_t row = size_t(y - first_row_) * width_;
    NATIVE_CALL_ISA(add_row)(&s.sum[row], &s.count[row], width_, sign, column_sum_.data(),
                             column_count_.data());
  };
  for (int y = y0_ - s.radius; y < y0_ + s.radius; ++y) add(y, 1);
  const double steady = lens.orthographic ? lens.pixel * s.radius : 0,
               growing = lens.orthographic ? 0 : lens.scale * lens.pixel * s.radius;
  for (int y = y0_; y < y0_ + height_; ++y) {
    add(y + s.radius, 1);
    if (y > y0_) add(y - s.radius - 1, -1);
    const size_t row = size_t(y - y0_) * width_;
    NATIVE_CALL_ISA(add_hollows)(&distance_[row], column_sum_.data(), column_count_.data(), width_, steady,
                                 growing, &hollow_[row]);
  }
}

void Hollows::find(const VisibilityBuffer& buffer, const Lens& lens, int x0, int y0, int x1, int y1) {
  x0_ = x0, y0_ = y0, width_ = x1 - x0, height_ = y1 - y0;
  if (!any_drawn(buffer, x0, y0, x1, y1)) return;
  squares_[0].radius = std::max(1, buffer.height / 180), squares_[1].radius = std::max(2, buffer.height / 45);
  const int halo = squares_[1].radius;
  first_row_ = std::max(0, y0 - halo), last_row_ = std::min(buffer.height, y1 + halo);
  const size_t pixels = size_t(width_) * height_;
  distance_.resize(pixels), hollow_.assign(pixels, 0.0f);
  for (auto* line : {&line_, &seen_, &doubled_}) line->resize(width_ + 2 * halo);
  column_sum_.resize(width_), column_count_.resize(width_);
  for (Square& s : squares_)
    for (auto* plane : {&s.sum, &s.count}) plane->resize(size_t(last_row_ - first_row_) * width_);
  sum_rows(buffer, lens);
  for (const Square& s : squares_) sum_columns(s, lens);
}

}  // namespace nanite_cull
