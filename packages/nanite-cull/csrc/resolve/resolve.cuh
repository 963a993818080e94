// From the visibility buffer to what a pixel means, on a device: a thread a pixel, by the functions of core/
// that the CPU calls.
//
//   project_before   of the instances in view: object to clip in the last frame
//   resolve_pixels   ids, normals, texture coordinates, colours, velocities
//   resolve_albedos  the base pass: texture times colours, as linear light
#pragma once

#include "core/resolve_pixel.h"
#include "raster/raster_pass.h"

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

// A lane an entry.
DEV_KERNEL(resolve_threads)
project_before(BasicView<Wide> view, const InstanceRecord* places, const uint32_t* entered,
               const Count* entered_count, float* out) {
  const int64_t count = static_cast<int64_t>(*entered_count) * 16;
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const uint32_t instance = entered[i / 16];
    const int part = static_cast<int>(i % 16);
    out[16 * int64_t(instance) + part] =
        static_cast<float>(clip_entry(view, places[instance].placement(), part / 4, part % 4));
  }
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

DEV_KERNEL(resolve_threads) resolve_pixels(ResolvePass pass, ResolveTargets targets) {
  const int64_t count = int64_t(pass.image.width) * pass.image.height;
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const Count word = pass.pixels[i];
    if (word == 0) {
      resolve_nothing(i, targets);
      continue;
    }
    DrawnTriangle triangle;
    const uint32_t instance =
        drawn_triangle(pass, static_cast<uint32_t>(word & 0xffffffffu), targets.wants(), triangle);
    const float* const before = pass.before ? pass.before + 16 * int64_t(instance) : nullptr;
    resolve_pixel(triangle, instance, before, static_cast<int>(i % pass.image.width),
                  static_cast<int>(i / pass.image.width), pass.image, targets);
  }
}

// `out`: (height, width, 4).
DEV_KERNEL(resolve_threads) resolve_albedos(ResolvePass pass, const float* light, float* out) {
  const int64_t count = int64_t(pass.image.width) * pass.image.height;
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const Count word = pass.pixels[i];
    if (word == 0) {
      fill(out, i, 4, 0.0f);
      continue;
    }
    DrawnTriangle triangle;
    drawn_triangle(pass, static_cast<uint32_t>(word & 0xffffffffu), albedo_wants(), triangle);
    albedo_of(triangle, static_cast<int>(i % pass.image.width), static_cast<int>(i / pass.image.width),
              pass.image, light, out + 4 * i);
  }
}

}  // namespace nanite_cull::cuda
