// A frame as Python holds it, and how its arrays and lights are checked: for the host's and for a device's.
#pragma once

#include <algorithm>

#include "bindings/arrays.h"
#include "core/resolve_pixel.h"
#include "raster/two_pass.h"
#include "resolve/light.h"
#include "resolve/shade.h"
#include "resolve/unproject.h"

namespace nanite_cull {

// What one frame leaves behind; reused by the next.
struct Frame {
  CullContext context;
  VisibleClusters visible;
  Draws draws;
  VisibilityBuffer buffer;
  Motion motion;
  CullStats cull_stats;
  RasterStats raster_stats;
  uint64_t picture = 0;  // of a device: see DeviceFrame::draw
};

inline nb::dict cull_stats(const CullStats& s) {
  nb::dict d;
  d["instances"] = s.instances, d["tested_instances"] = s.tested_instances;
  d["visible_instances"] = s.visible_instances, d["far_instances"] = s.far_instances, d["nodes"] = s.nodes;
  d["candidate_clusters"] = s.candidate_clusters, d["visible_small"] = s.visible_small,
  d["visible_large"] = s.visible_large;
  d["occluded_instances"] = s.occluded_instances, d["occluded_nodes"] = s.occluded_nodes;
  d["occluded_clusters"] = s.occluded_clusters, d["post_clusters"] = s.post_clusters;
  d["triangles"] = s.triangles, d["dropped_candidate_nodes"] = s.dropped_nodes;
  d["dropped_candidate_clusters"] = s.dropped_candidate_clusters,
  d["dropped_visible_clusters"] = s.dropped_visible_clusters;
  return d;
}

inline nb::dict raster_stats(const RasterStats& s) {
  nb::dict d;
  d["clusters"] = s.clusters, d["drawn_triangles"] = s.drawn_triangles;
  d["clipped_triangles"] = s.clipped_triangles;
  return d;
}

// A plane or more of an image that the core writes to, of `channels` numbers a pixel (0: one, without an
// axis); null where it is not there.
template <class T>
T* plane_of(const char* name, const std::optional<nb::ndarray<T, nb::c_contig, nb::device::cpu>>& array,
            const VisibilityBuffer& image, size_t channels) {
  if (!array) return nullptr;
  std::vector<size_t> extents = {size_t(image.height), size_t(image.width)};
  if (channels > 0) extents.push_back(channels);
  check_extents(name, *array, extents);
  return array->data();
}

using Ids = std::optional<nb::ndarray<uint32_t, nb::c_contig, nb::device::cpu>>;
using Values = std::optional<nb::ndarray<float, nb::c_contig, nb::device::cpu>>;

// `ids`: instance, cluster, triangle, level, material; `values`: normal, uv, colour, velocity.
inline ResolveTargets targets_of(const VisibilityBuffer& image, const std::array<Ids, 5>& ids,
                                 const std::array<Values, 4>& values) {
  ResolveTargets t;
  t.instance = plane_of("resolve: instance", ids[0], image, 0);
  t.cluster = plane_of("resolve: cluster", ids[1], image, 0);
  t.triangle = plane_of("resolve: triangle", ids[2], image, 0);
  t.level = plane_of("resolve: level", ids[3], image, 0);
  t.material = plane_of("resolve: material", ids[4], image, 0);
  t.normal = plane_of("resolve: normal", values[0], image, 3);
  t.uv = plane_of("resolve: uv", values[1], image, 2);
  t.color = plane_of("resolve: color", values[2], image, 4);
  t.velocity = plane_of("resolve: velocity", values[3], image, 2);
  return t;
}

using Depths = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

// Views are of one size.
inline void check_views(const std::vector<View>& views) {
  native::demand(!views.empty(), [] { return std::string("draw_views: views must not be empty"); });
  const View& first = views.front();
  for (const View& view : views)
    native::demand(view.width == first.width && view.height == first.height, [&] {
      return "draw_views: views must be of one size, got " + std::to_string(first.width) + " x " +
             std::to_string(first.height) + " and " + std::to_string(view.width) + " x " +
             std::to_string(view.height);
    });
}

// Depths have room for exactly these views.
inline void check_depths(const std::vector<View>& views, const Depths& out) {
  check_views(views);
  check_extents("draw_views: out", out,
                {views.size(), size_t(views.front().height), size_t(views.front().width)});
}

// A camera's, with its rays.
struct CameraLens {
  Unprojection exact;
  Lens lens;
  std::vector<float> x, y;
};

// Throws unless it has the rays of this image.
inline void check_lens(const VisibilityBuffer& image, const CameraLens& lens) {
  native::demand(lens.x.size() == size_t(image.width) && lens.y.size() == size_t(image.height), [&] {
    return "lens: ray_y and ray_x must have shape (" + std::to_string(image.height) + ", " +
           std::to_string(image.width) + "), got (" + std::to_string(lens.y.size()) + ", " +
           std::to_string(lens.x.size()) + ")";
  });
}

using Maps = Array<float, nb::shape<-1, -1, -1>>;

// `depth`: (maps, size, size).
inline Lights lights_of(const std::vector<Light>& lights, const std::vector<View>& maps, const Maps& depth) {
  check_extents("find_light: depth", depth, {maps.size(), depth.shape(1), depth.shape(1)});
  return {lights, maps, depth.data(), static_cast<int>(depth.shape(1))};
}

inline LightTargets light_targets_of(const VisibilityBuffer& image, size_t lights, const Values& share,
                                     const Values& direct) {
  if (share) check_extents("find_light: share", *share, {lights, size_t(image.height), size_t(image.width)});
  return {share ? share->data() : nullptr, plane_of("find_light: direct", direct, image, 0)};
}

using Ramp = Array<float, nb::shape<-1, 3>>;
using Bytes = std::optional<nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>>;

inline Shading shading_of(const VisibilityBuffer& image, Base base, const Array<float, nb::shape<3>>& light,
                          float relief, const Ramp& ramp, uint32_t top_level, const Ramp& background) {
  Shading out;
  out.base = base, out.relief = relief, out.top_level = top_level;
  std::copy_n(light.data(), 3, out.light);
  native::demand(ramp.shape(0) >= 2, [] { return std::string("shade: ramp must have two rows or more"); });
  check_extents("shade: background", background, {size_t(image.height), 3});
  out.ramp = ramp.data(), out.ramp_size = static_cast<int>(ramp.shape(0));
  out.background = background.data();
  return out;
}

}  // namespace nanite_cull
