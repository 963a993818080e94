// Triangles of the visibility buffer, found among what a frame drew and prepared.
#pragma once

#include "build/surfaces.h"
#include "core/drawn_triangle.h"
#include "cull/cull.h"

namespace nanite_cull {

template <class T>
const T* data_of(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}

// One triangle, ready to be interpolated at pixels.
struct Interpolator : DrawnTriangle {
  uint32_t id = none;
  bool valid = false;
  const Draw* draw = nullptr;

  void prepare(const Draws& draws, const VisibleClusters& visible, uint32_t which, const Wants& wants) {
    id = which, valid = true;
    const uint32_t slot = which >> triangle_bits;
    draw = &draws.draws[draws.of[slot]], to_clip = draw->to_clip, inverse = draw->inverse;
    const Asset& asset = *draws.assets[draw->asset];
    cluster = visible.buffer[slot].cluster;
    const Cluster& c = asset.clusters[cluster];
    const ClusterGeometry geometry = draws.geometry(draw->asset, cluster);
    const Vertices& v = *geometry.vertices;
    vertices = {v.positions.data(), data_of(v.normals), data_of(v.uvs), data_of(v.colors),
                data_of(v.materials)};
    const uint32_t local = which & ((1u << triangle_bits) - 1);
    triangle = c.triangle_begin + local, level = c.level;
    for (int k = 0; k < 3; ++k) corner[k] = geometry.vertex(geometry.triangles[3 * local + k]);
    DrawnTriangle::prepare(asset.surfaces ? asset.surfaces->of(material()) : nullptr, wants);
  }
};

// The triangles of the last few hundred pixels, prepared: most are met again a row below.
class RecentTriangles {
 public:
  void forget() {
    for (Interpolator& triangle : recent_) triangle.valid = false;
  }
  // Asks the memory for a triangle's positions.
  void expect(const Draws& draws, const VisibleClusters& visible, uint32_t id) {
    if (id == expected_) return;
    expected_ = id;
    const Interpolator& triangle = slot(id);
    if (triangle.valid && triangle.id == id) return;
    const uint32_t which = id >> triangle_bits;
    const ClusterGeometry geometry =
        draws.geometry(draws.draws[draws.of[which]].asset, visible.buffer[which].cluster);
    const uint8_t* local = geometry.triangles + 3 * (id & ((1u << triangle_bits) - 1));
    for (int k = 0; k < 3; ++k) __builtin_prefetch(geometry.position(local[k]));
  }
  const Interpolator& of(const Draws& draws, const VisibleClusters& visible, uint32_t id,
                         const Wants& wants) {
    Interpolator& triangle = slot(id);
    if (!triangle.valid || triangle.id != id) triangle.prepare(draws, visible, id, wants);
    return triangle;
  }

 private:
  static constexpr int bits = 9;
  Interpolator& slot(uint32_t id) { return recent_[(id * 0x9E3779B1u) >> (32 - bits)]; }

  uint32_t expected_ = none;
  Interpolator recent_[1 << bits];
};

}  // namespace nanite_cull
