// A camera as the core sees it.
#pragma once

#include "core/lod.h"
#include "scene/scene.h"

namespace nanite_cull {

struct View {
  double world_to_clip[16];  // rows; reversed Z: depth = z / w is 1 at the near plane, towards 0 far away
  double eye[3];             // world; for an orthographic view any point, it does not count
  float near_distance = 0.01f;
  float pixels_per_unit = 1;  // of one world unit at distance one (perspective) or anywhere (orthographic)
  float threshold = 1;        // pixels of error that may show
  bool orthographic = false;
  int width = 1, height = 1;
};

// One view of one instance: LOD constants and the frustum, in object space.
struct InstanceView {
  LodView lod;
  float planes[6][4];  // inside where dot(plane, (p, 1)) >= 0; moved outward by the rounding of float
  int plane_count;
};

InstanceView make_instance_view(const View& view, const Instance& instance, const Asset& asset);

// world_to_clip times the instance's transform, 4x4 in float: what vertices are multiplied by.
void object_to_clip(const View& view, const Instance& instance, float* matrix);

}  // namespace nanite_cull
