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
  const int begin = std::max(0, x0_ - halo_), end = std::min(buffer.width, x0_ + width_ + halo_);
  std::fill(line_.begin(), line_.end(), 0.0f), std::fill(seen_.begin(), seen_.end(), 0.0f);
  for (int y = std::max(0, y0_ - halo_); y < std::min(buffer.height, y0_ + height_ + halo_); ++y) {
    const float* depth = &buffer.depth[size_t(y) * buffer.width + begin];
    float *line = &line_[begin - (x0_ - halo_)], *seen = &seen_[begin - (x0_ - halo_)];
    if (lens.orthographic)
      for (int x = 0; x < end - begin; ++x)
        line[x] = distance_of(lens, depth[x]), seen[x] = depth[x] > 0 ? 1.0f : 0.0f;
    else
      NATIVE_CALL_ISA(perspective_distances)(depth, end - begin, lens.near_distance, lens.scale, line, seen);
    if (y >= y0_ && y < y0_ + height_) std::copy_n(&line_[halo_], width_, &distance_[(y - y0_) * width_]);
    for (Square& s : squares_) {
      const size_t row = size_t(y - (y0_ - halo_)) * width_;
      const int window = 2 * s.radius + 1, first = halo_ - s.radius;
      NATIVE_CALL_ISA(window_sums)(&line_[first], width_, window, doubled_.data(), &s.sum[row]);
      NATIVE_CALL_ISA(window_sums)(&seen_[first], width_, window, doubled_.data(), &s.count[row]);
    }
  }
}

// The rows' sums are doubled where they are. Counts are whole numbers, exact in any order: a window of them
// slides.
void Hollows::sum_columns(Square& s, const Lens& lens) {
  const int window = 2 * s.radius + 1;
  float* const doubled = &s.sum[size_t(halo_ - s.radius) * width_];
  std::fill(sum_.begin(), sum_.end(), 0.0f);
  for (int power = 1, offset = 0;; power *= 2) {
    if (window & power) {
      NATIVE_CALL_ISA(add_row)(doubled + offset * width_, height_ * width_, 1, sum_.data());
      offset += power;
    }
    if (offset == window) break;
    // a row at a time: those below are still what they were
    for (int y = 0; y < height_ + window - 2 * power; ++y)
      NATIVE_CALL_ISA(add_row)(doubled + (y + power) * width_, width_, 1, doubled + y * width_);
  }
  const auto add_counts = [&](int y, float sign) {
    NATIVE_CALL_ISA(add_row)(&s.count[size_t(y + halo_) * width_], width_, sign, column_count_.data());
  };
  std::fill(column_count_.begin(), column_count_.end(), 0.0f);
  for (int y = -s.radius; y < s.radius; ++y) add_counts(y, 1);
  const HollowScale scale(lens, s.radius);
  for (int y = 0; y < height_; ++y) {
    add_counts(y + s.radius, 1);
    if (y > 0) add_counts(y - s.radius - 1, -1);
    const size_t row = size_t(y) * width_;
    NATIVE_CALL_ISA(add_hollows)(&distance_[row], &sum_[row], column_count_.data(), width_, scale,
                                 &hollow_[row]);
  }
}

void Hollows::find(const VisibilityBuffer& buffer, const Lens& lens, int x0, int y0, int x1, int y1) {
  x0_ = x0, y0_ = y0, width_ = x1 - x0, height_ = y1 - y0;
  if (!any_drawn(buffer, x0, y0, x1, y1)) return;
  const HollowRadii radii = hollow_radii(buffer.height);
  squares_[0].radius = radii.small, squares_[1].radius = radii.large, halo_ = radii.large;
  const size_t pixels = size_t(width_) * height_;
  distance_.resize(pixels), sum_.resize(pixels), hollow_.assign(pixels, 0.0f);
  for (auto* line : {&line_, &seen_, &doubled_}) line->resize(width_ + 2 * halo_);
  column_count_.resize(width_);
  for (Square& s : squares_)  // zero beyond the image
    for (auto* plane : {&s.sum, &s.count}) plane->assign(size_t(height_ + 2 * halo_) * width_, 0.0f);
  sum_rows(buffer, lens);
  for (Square& s : squares_) sum_columns(s, lens);
}

}  // namespace nanite_cull
