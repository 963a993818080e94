// The view frustum against boxes and spheres.
#pragma once

#include "core/hd.h"
#include "core/lod.h"

namespace nanite_cull {

// One view of one instance: LOD constants and the frustum, in object space.
struct InstanceView {
  LodView lod;
  float planes[6][4];  // inside where dot(plane, (p, 1)) >= 0; moved outward by the rounding of float
  int plane_count;
};

// What the test of a sphere against a plane can lose by rounding, in relation to its terms.
constexpr float sphere_slack = 4e-6f;

// Whether the corner of a box that lies furthest along a plane is inside. Monotone in the box, so a node
// passes where its parts pass.
HD inline bool box_meets(const float* plane, float lo_x, float lo_y, float lo_z, float hi_x, float hi_y,
                         float hi_z) {
  const float x = plane[0] > 0 ? hi_x : lo_x, y = plane[1] > 0 ? hi_y : lo_y, z = plane[2] > 0 ? hi_z : lo_z;
  return ((plane[0] * x + plane[1] * y) + plane[2] * z) + plane[3] >= 0;
}

HD inline bool box_in_frustum(const InstanceView& view, float lo_x, float lo_y, float lo_z, float hi_x,
                              float hi_y, float hi_z) {
  for (int p = 0; p < view.plane_count; ++p)
    if (!box_meets(view.planes[p], lo_x, lo_y, lo_z, hi_x, hi_y, hi_z)) return false;
  return true;
}

// Whether a sphere lies wholly outside a plane of unit length.
HD inline bool sphere_misses(const float* plane, float cx, float cy, float cz, float r) {
  const float x = plane[0] * cx, y = plane[1] * cy, z = plane[2] * cz;
  const float slack = sphere_slack * (((magnitude(x) + magnitude(y)) + magnitude(z)) + magnitude(plane[3]));
  return ((x + y) + z) + plane[3] < -(r + slack);
}

// Whether it lies wholly inside, so that whatever it holds does: no test of it or its parts would fail.
HD inline bool sphere_within(const float* plane, float cx, float cy, float cz, float r) {
  const float x = plane[0] * cx, y = plane[1] * cy, z = plane[2] * cz;
  const float slack = sphere_slack * (((magnitude(x) + magnitude(y)) + magnitude(z)) + magnitude(plane[3]));
  return ((x + y) + z) + plane[3] >= r + slack;
}

}  // namespace nanite_cull
