#include "scene/view.h"

#include <algorithm>
#include <cmath>

namespace nanite_cull {

namespace {

constexpr float always_inside = 1e30f;  // the offset of a plane without a normal: a far plane at infinity

void object_to_clip(const View& view, const Placement& place, double* out) {
  for (int e = 0; e < 16; ++e) out[e] = clip_entry(view, place, e / 4, e % 4);
}

}  // namespace

void world_planes(const View& view, float (*planes)[4]) {
  const int rows[6] = {0, 0, 1, 1, 2, 2};
  for (int p = 0; p < 6; ++p) {
    double plane[4], length = 0;
    for (int j = 0; j < 4; ++j)
      plane[j] = (p == 5 ? 0 : view.relative_to_clip[12 + j]) +
                 (p == 4 || p == 1 || p == 3 ? -1 : 1) * view.relative_to_clip[4 * rows[p] + j];
    for (int j = 0; j < 3; ++j) plane[3] -= plane[j] * view.eye[j];
    for (int j = 0; j < 3; ++j) length += plane[j] * plane[j];
    length = std::sqrt(length);
    for (int j = 0; j < 4; ++j)
      planes[p][j] = length > 0 ? static_cast<float>(plane[j] / length) : j == 3 ? always_inside : 0;
  }
}

Draw make_draw(const View& view, const Scene& scene, uint32_t instance) {
  Draw draw;
  draw.instance = instance, draw.asset = scene.lanes.asset[instance];
  const Placement place = scene.placement(instance);
  double m[16];
  object_to_clip(view, place, m);
  for (int e = 0; e < 16; ++e) draw.to_clip[e] = static_cast<float>(m[e]);
  for (int e = 0; e < 9; ++e) draw.inverse[e] = scene.lanes.inverse[e][instance];
  draw.mirrored = scene.mirrored(instance);
  std::copy_n(place.linear, 9, draw.linear), std::copy_n(place.translation, 3, draw.translation);
  return draw;
}

OcclusionView make_occlusion_view(const View& view, const Asset& asset, const Placement& place) {
  OcclusionView out;
  double m[16];
  object_to_clip(view, place, m);
  for (int i = 0; i < 4; ++i) out.slack[i] = clip_slack_of(m, asset.box, i);
  for (int e = 0; e < 16; ++e) out.to_clip[e] = static_cast<float>(m[e]);
  out.half_x = view.width * 0.5f, out.half_y = view.height * 0.5f;
  return out;
}

InstanceView make_instance_view(const View& view, const Scene& scene, int64_t instance) {
  InstanceView out;
  const InstanceLanes& lanes = scene.lanes;
  const Asset& asset = *scene.assets[lanes.asset[instance]];
  const Placement place = scene.placement(instance);
  float inverse[9];
  for (int e = 0; e < 9; ++e) inverse[e] = lanes.inverse[e][instance];
  out.lod = lod_view(view, place.translation, inverse, lanes.largest[instance], lanes.smallest[instance]);
  double m[16];
  object_to_clip(view, place, m);
  out.plane_count = 6;
  for (int p = 0; p < 6; ++p) frustum_plane(m, asset.box, p, out.planes[p]);
  return out;
}

}  // namespace nanite_cull
