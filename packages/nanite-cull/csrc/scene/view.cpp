#include "scene/view.h"

#include <algorithm>
#include <cmath>

namespace nanite_cull {

namespace {

// Twice what a float evaluation of a plane, or of the vertex transform, can lose in relation to its terms.
constexpr double plane_slack = 4e-6;

void multiply(const View& view, const Instance& instance, double out[4][4]) {
  const float* t = instance.to_world;
  for (int i = 0; i < 4; ++i) {
    const double* row = view.world_to_clip + 4 * i;
    for (int j = 0; j < 4; ++j)
      out[i][j] = row[0] * t[j] + row[1] * t[4 + j] + row[2] * t[8 + j] + (j == 3 ? row[3] : 0);
  }
}

}  // namespace

void object_to_clip(const View& view, const Instance& instance, float* matrix) {
  double m[4][4];
  multiply(view, instance, m);
  for (int i = 0; i < 16; ++i) matrix[i] = static_cast<float>(m[i / 4][i % 4]);
}

InstanceView make_instance_view(const View& view, const Instance& instance, const Asset& asset) {
  InstanceView out;
  const float* t = instance.to_world;
  const float offset[3] = {float(view.eye[0] - t[3]), float(view.eye[1] - t[7]), float(view.eye[2] - t[11])};
  for (int i = 0; i < 3; ++i) {
    const float* row = instance.inverse + 3 * i;
    out.lod.eye[i] = (row[0] * offset[0] + row[1] * offset[1]) + row[2] * offset[2];
  }
  // An error of e is at most e * largest in the world, a distance of d at least d * smallest.
  out.lod.near_distance = view.near_distance / instance.smallest;
  out.lod.error_to_pixels = view.orthographic ? view.pixels_per_unit * instance.largest
                                              : view.pixels_per_unit * (instance.largest / instance.smallest);
  out.lod.threshold = view.threshold;
  out.lod.orthographic = view.orthographic ? 1.0f : 0.0f;

  double m[4][4];
  multiply(view, instance, m);
  const int rows[6] = {0, 0, 1, 1, 2, 2};
  out.plane_count = 6;
  for (int p = 0; p < 6; ++p) {
    const double sign = p % 2 ? -1 : 1;
    double plane[4], size = 0;
    for (int j = 0; j < 4; ++j) {
      const double w =
          p == 5 ? 0 : m[3][j];  // near: w - z, far: z, which an infinite far plane always passes
      plane[j] = w + (p == 4 ? -1 : p == 5 ? 1 : sign) * m[rows[p]][j];
      const double reach = j == 3 ? 1 : std::max(std::fabs(asset.box.lo[j]), std::fabs(asset.box.hi[j]));
      size += (std::fabs(m[3][j]) + std::fabs(m[rows[p]][j])) * reach;
    }
    for (int j = 0; j < 4; ++j) out.planes[p][j] = static_cast<float>(plane[j]);
    out.planes[p][3] = static_cast<float>(plane[3] + plane_slack * size);
  }
  return out;
}

}  // namespace nanite_cull
