#include "scene/view.h"

#include <algorithm>
#include <cmath>

namespace nanite_cull {

namespace {

// Twice what a float evaluation of a plane, or of the vertex transform, can lose in relation to its terms.
constexpr double plane_slack = 4e-6;

// Object to clip, in double: relative to the eye, so that nothing is lost far from the world's origin.
void object_to_clip(const View& view, const Placement& place, double out[4][4]) {
  const double* m = place.linear;
  double offset[3];
  for (int i = 0; i < 3; ++i) offset[i] = place.translation[i] - view.eye[i];
  for (int i = 0; i < 4; ++i) {
    const double* row = view.relative_to_clip + 4 * i;
    for (int j = 0; j < 3; ++j) out[i][j] = row[0] * m[j] + row[1] * m[3 + j] + row[2] * m[6 + j];
    out[i][3] = row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2] + row[3];
  }
}

}  // namespace

Draw make_draw(const View& view, const Scene& scene, uint32_t instance) {
  Draw draw;
  draw.instance = instance, draw.asset = scene.lanes.asset[instance];
  double m[4][4];
  object_to_clip(view, scene.placement(instance), m);
  for (int i = 0; i < 16; ++i) draw.to_clip[i] = static_cast<float>(m[i / 4][i % 4]);
  for (int i = 0; i < 9; ++i) draw.inverse[i] = scene.lanes.inverse[i][instance];
  draw.mirrored = scene.mirrored(instance);
  const Placement place = scene.placement(instance);
  std::copy_n(place.linear, 9, draw.linear), std::copy_n(place.translation, 3, draw.translation);
  return draw;
}

OcclusionView make_occlusion_view(const View& view, const Asset& asset, const Placement& place) {
  OcclusionView out;
  double m[4][4];
  object_to_clip(view, place, m);
  for (int i = 0; i < 4; ++i) {
    double size = std::fabs(m[i][3]);
    for (int j = 0; j < 3; ++j)
      size += std::fabs(m[i][j]) * std::max(std::fabs(asset.box.lo[j]), std::fabs(asset.box.hi[j]));
    out.slack[i] = static_cast<float>(clip_slack * size);
    for (int j = 0; j < 4; ++j) out.to_clip[4 * i + j] = static_cast<float>(m[i][j]);
  }
  out.half_x = view.width * 0.5f, out.half_y = view.height * 0.5f;
  return out;
}

InstanceView make_instance_view(const View& view, const Scene& scene, int64_t instance) {
  InstanceView out;
  const InstanceLanes& lanes = scene.lanes;
  const Asset& asset = *scene.assets[lanes.asset[instance]];
  float offset[3];
  for (int i = 0; i < 3; ++i) offset[i] = static_cast<float>(view.eye[i] - lanes.translation[i][instance]);
  for (int i = 0; i < 3; ++i)
    out.lod.eye[i] =
        (lanes.inverse[3 * i][instance] * offset[0] + lanes.inverse[3 * i + 1][instance] * offset[1]) +
        lanes.inverse[3 * i + 2][instance] * offset[2];
  // An error of e is at most e * largest in the world, a distance of d at least d * smallest.
  const float largest = lanes.largest[instance], smallest = lanes.smallest[instance];
  out.lod.near_distance = view.near_distance / smallest;
  out.lod.error_to_pixels =
      view.orthographic ? view.pixels_per_unit * largest : view.pixels_per_unit * (largest / smallest);
  out.lod.threshold = view.threshold;
  out.lod.orthographic = view.orthographic ? 1.0f : 0.0f;

  double m[4][4];
  object_to_clip(view, scene.placement(instance), m);
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
