#include "resolve/hollow_rows.h"

namespace nanite_cull::NATIVE_ISA {

void window_sums(const float* from, int count, int window, float* __restrict doubled, float* __restrict out) {
  for (int x = 0; x < count + window - 1; ++x) doubled[x] = from[x];
  for (int x = 0; x < count; ++x) out[x] = 0;
  for (int power = 1, offset = 0;; power *= 2) {
    if (window & power) {
      for (int x = 0; x < count; ++x) out[x] += doubled[x + offset];
      offset += power;
    }
    if (offset == window) return;
    for (int x = 0; x < count + window - 2 * power; ++x) doubled[x] += doubled[x + power];
  }
}

void perspective_distances(const float* depth, int count, float near_distance, float scale,
                           float* __restrict line, float* __restrict seen) {
  for (int x = 0; x < count; ++x) {
    const float drawn = depth[x] > 0 ? 1.0f : 0.0f;
    seen[x] = drawn;
    line[x] = drawn * (near_distance / (depth[x] + (1 - drawn)) / scale);
  }
}

void add_hollows(const float* distance, const float* sum, const float* count, int width,
                 const HollowScale& scale, float* __restrict hollow) {
  const HollowScale by = scale;
  for (int x = 0; x < width; ++x) hollow[x] += hollow_of(distance[x], sum[x], count[x], by);
}

void add_row(const float* from, int width, float sign, float* __restrict to) {
  for (int x = 0; x < width; ++x) to[x] += sign * from[x];
}

}  // namespace nanite_cull::NATIVE_ISA
