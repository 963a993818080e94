// One view of one instance, of numbers that hold the world: doubles on the host, Wide in a kernel, with the
// same bits. What comes out is float, relative to the eye, so nothing is lost far from the world's origin.
//
// Entry by entry: the host goes through them, a kernel gives each to a lane.
#pragma once

#include "core/frustum.h"
#include "core/occlusion.h"

namespace nanite_cull {

template <class Real>
struct BasicView {
  Real relative_to_clip[16];  // rows; from world positions relative to the eye. Reversed Z: depth = z / w
                              // is 1 at the near plane, towards 0 far away
  Real eye[3];                // world; for an orthographic view a point of its image plane
  float near_distance = 0.01f;
  float pixels_per_unit = 1;  // of one world unit at distance one (perspective) or anywhere (orthographic)
  float threshold = 1;        // pixels of error that may show
  bool orthographic = false;
  int width = 1, height = 1;
};

// From the asset's grid to the world: rows of the linear part, and where the grid's origin lies.
template <class Real>
struct BasicPlacement {
  const Real* linear;
  Real translation[3];
};

// Twice what a float evaluation of a plane, or of the vertex transform, can lose in relation to its terms.
constexpr float plane_slack = 4e-6f;

// Entry (i, j) of the matrix from object to clip space.
template <class Real>
HD inline Real clip_entry(const BasicView<Real>& view, const BasicPlacement<Real>& place, int i, int j) {
  const Real* row = view.relative_to_clip + 4 * i;
  if (j == 3) {
    const Real x = place.translation[0] - view.eye[0], y = place.translation[1] - view.eye[1],
               z = place.translation[2] - view.eye[2];
    return ((row[0] * x + row[1] * y) + row[2] * z) + row[3];
  }
  const Real* m = place.linear + j;
  return (row[0] * m[0] + row[1] * m[3]) + row[2] * m[6];
}

// How far along an axis a box reaches from its origin.
HD inline float reach_of(const Box& box, int axis) {
  return most(magnitude(box.lo[axis]), magnitude(box.hi[axis]));
}

// Plane p of the frustum in object space, moved outward by what rounding can lose for points of `box`. `m`:
// object to clip, in rows.
template <class Real>
HD inline void frustum_plane(const Real* m, const Box& box, int p, float* out) {
  const Real *row = m + 4 * (p / 2), *last = m + 12;
  Real size(0.0f), offset(0.0f);
  for (int j = 0; j < 4; ++j) {
    const Real w = p == 5 ? Real(0.0f) : last[j];  // near: w - z, far: z, which an infinite far plane passes
    const Real value = w + (p == 4 || p == 1 || p == 3 ? -row[j] : row[j]);
    const Real term = (magnitude(last[j]) + magnitude(row[j])) * Real(j == 3 ? 1.0f : reach_of(box, j));
    size = j == 0 ? term : size + term;
    out[j] = static_cast<float>(value);
    offset = value;
  }
  out[3] = static_cast<float>(offset + Real(plane_slack) * size);
}

// What coordinate i in clip space can lose by rounding, for points of `box`.
template <class Real>
HD inline float clip_slack_of(const Real* m, const Box& box, int i) {
  Real size = magnitude(m[4 * i + 3]);
  for (int j = 0; j < 3; ++j) size = size + magnitude(m[4 * i + j]) * Real(reach_of(box, j));
  return static_cast<float>(Real(clip_slack) * size);
}

// `inverse`: of the linear part; largest, smallest: its singular values.
template <class Real>
HD inline LodView lod_view(const BasicView<Real>& view, const Real* translation, const float* inverse,
                           float largest, float smallest) {
  LodView out;
  const float x = static_cast<float>(view.eye[0] - translation[0]),
              y = static_cast<float>(view.eye[1] - translation[1]),
              z = static_cast<float>(view.eye[2] - translation[2]);
  for (int i = 0; i < 3; ++i) {
    const float* row = inverse + 3 * i;
    out.eye[i] = (row[0] * x + row[1] * y) + row[2] * z;
  }
  // An error of e is at most e * largest in the world, a distance of d at least d * smallest.
  out.near_distance = view.near_distance / smallest;
  out.error_to_pixels =
      view.orthographic ? view.pixels_per_unit * largest : view.pixels_per_unit * (largest / smallest);
  out.threshold = view.threshold;
  out.orthographic = view.orthographic ? 1.0f : 0.0f;
  return out;
}

}  // namespace nanite_cull
