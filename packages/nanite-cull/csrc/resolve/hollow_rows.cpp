#include "resolve/hollow_rows.h"

namespace nanite_cull::NATIVE_ISA {

constexpr double tiny = 1e-300;  // keeps quotients finite where nothing was drawn

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

void add_hollows(const float* distance, const double* sum, const float* count, int width, double steady,
                 double growing, float* __restrict hollow) {
  for (int x = 0; x < width; ++x) {
    const double here = distance[x] + tiny, mean = sum[x] / (count[x] + tiny);
    hollow[x] += static_cast<float>((here - mean) / (steady + here * growing));
  }
}

void add_row(const float* sums, const float* counts, int width, float sign, double* __restrict sum,
             float* __restrict count) {
  for (int x = 0; x < width; ++x) sum[x] += sign * sums[x];
  for (int x = 0; x < width; ++x) count[x] += sign * counts[x];
}

}  // namespace nanite_cull::NATIVE_ISA
