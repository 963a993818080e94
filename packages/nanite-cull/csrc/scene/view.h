// A camera as the core sees it.
#pragma once

#include "core/instance_view.h"
#include "scene/scene.h"

namespace nanite_cull {

using View = BasicView<double>;

// One instance in one view, with all that drawing and resolving it needs: a frame keeps these, so that what
// happens to the scene afterwards does not touch it.
struct Draw {
  uint32_t instance, asset;
  float to_clip[16];                 // rows; object to clip
  float inverse[9];                  // of the linear part: normals go by its transpose
  double linear[9], translation[3];  // object to world, from the asset's origin
  bool mirrored;
};

// The planes of the frustum in the world, of unit normals.
void world_planes(const View& view, float (*planes)[4]);

InstanceView make_instance_view(const View& view, const Scene& scene, int64_t instance);

// An instance that lies where `place` says, in a view whose depth pyramid is known.
OcclusionView make_occlusion_view(const View& view, const Asset& asset, const Placement& place);

Draw make_draw(const View& view, const Scene& scene, uint32_t instance);

}  // namespace nanite_cull
