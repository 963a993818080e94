// What the kernels that go from the visibility buffer to pixels share.
#pragma once

#include "core/resolve_pixel.h"
#include "raster/device_raster.h"

namespace nanite_cull::cuda {

constexpr int resolve_threads = 128;

struct ResolvePass {
  SceneArrays scene;
  const Visible* visible;  // slots
  const Count* pixels;     // (height, width): depth above id
  const float* to_clip;    // (instances, 16): of those in view
  const float* before;     // the same in the last frame; null: there was none
  ImageSize image;
};

inline ResolvePass pass_of(const DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
                           const float* before) {
  ResolvePass pass{};
  pass.scene = scene.arrays(), pass.visible = culler.visible().data();
  pass.pixels = rasteriser.pixels().data(), pass.to_clip = culler.to_clip(), pass.before = before;
  pass.image = rasteriser.image();
  return pass;
}

inline int64_t resolve_blocks(int64_t threads) {
  return dev::grid_blocks((threads + resolve_threads - 1) / resolve_threads, 16);
}

// The triangle that a pixel shows, prepared; returns its instance.
DEV_FN uint32_t drawn_triangle(const ResolvePass& pass, uint32_t id, const Wants& wants, DrawnTriangle& out) {
  const Visible v = pass.visible[id >> id_triangle_bits];
  const uint32_t local = id & ((1u << id_triangle_bits) - 1);
  const InstanceRecord& record = pass.scene.instances[v.instance];
  const AssetArrays& asset = pass.scene.assets[record.asset];
  const Cluster& cluster = asset.clusters[v.cluster];
  const uint8_t* const corner = asset.triangles + 3 * (int64_t(cluster.triangle_begin) + local);
  out.vertices = asset.attributes();
  for (int k = 0; k < 3; ++k) out.corner[k] = asset.vertex(cluster, corner[k]);
  out.to_clip = pass.to_clip + 16 * int64_t(v.instance), out.inverse = record.inverse;
  out.cluster = v.cluster, out.level = cluster.level, out.triangle = asset.first_triangle(v.cluster) + local;
  out.prepare(asset.look(out.material()), wants);
  return v.instance;
}

}  // namespace nanite_cull::cuda
