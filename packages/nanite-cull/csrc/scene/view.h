// A camera as the core sees it.
#pragma once

#include "core/frustum.h"
#include "core/occlusion.h"
#include "scene/scene.h"

namespace nanite_cull {

struct View {
  double relative_to_clip[16];  // rows; from world positions relative to the eye. Reversed Z: depth = z / w
                                // is 1 at the near plane, towards 0 far away
  double eye[3];                // world; for an orthographic view a point of its image plane
  float near_distance = 0.01f;
  float pixels_per_unit = 1;  // of one world unit at distance one (perspective) or anywhere (orthographic)
  float threshold = 1;        // pixels of error that may show
  bool orthographic = false;
  int width = 1, height = 1;
};

// One instance in one view, with all that drawing and resolving it needs: a frame keeps these, so that what
// happens to the scene afterwards does not touch it.
struct Draw {
  uint32_t instance, asset;
  float to_clip[16];                 // rows; object to clip
  float inverse[9];                  // of the linear part: normals go by its transpose
  double linear[9], translation[3];  // object to world, from the asset's origin
  bool mirrored;
};

InstanceView make_instance_view(const View& view, const Scene& scene, int64_t instance);

// An instance that lies where `place` says, in a view whose depth pyramid is known.
OcclusionView make_occlusion_view(const View& view, const Asset& asset, const Placement& place);

Draw make_draw(const View& view, const Scene& scene, uint32_t instance);

}  // namespace nanite_cull
