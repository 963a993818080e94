// From the visibility buffer to what a pixel means, on a device: a thread a pixel, by the functions of core/
// that the CPU calls.
//
//   project_instances  of the instances in view: object to clip in the last frame, or in another view
//   resolve_pixels     ids, normals, texture coordinates, colours, velocities
//   resolve_albedos    the base pass: texture times colours, as linear light, material by material
#pragma once

#include "resolve/resolve_pass.cuh"

namespace nanite_cull::cuda {

// A lane an entry.
DEV_KERNEL(resolve_threads)
project_instances(BasicView<Wide> view, const InstanceRecord* places, const uint32_t* entered,
                  const Count* entered_count, float* out) {
  const int64_t count = static_cast<int64_t>(*entered_count) * 16;
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const uint32_t instance = entered[i / 16];
    const int part = static_cast<int>(i % 16);
    out[16 * int64_t(instance) + part] =
        static_cast<float>(clip_entry(view, places[instance].placement(), part / 4, part % 4));
  }
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

// Of the pixels of a list, as many as `listed` says; `out`: (height, width, 4).
DEV_KERNEL(resolve_threads)
resolve_albedos(ResolvePass pass, const uint32_t* list, const uint32_t* listed, const float* light,
                float* out) {
  const int64_t count = *listed;
  for (int64_t k = dev::thread_index(); k < count; k += dev::thread_count()) {
    const int64_t i = list[k];
    DrawnTriangle triangle;
    drawn_triangle(pass, static_cast<uint32_t>(pass.pixels[i] & 0xffffffffu), albedo_wants(), triangle);
    albedo_of(triangle, static_cast<int>(i % pass.image.width), static_cast<int>(i / pass.image.width),
              pass.image, light, out + 4 * i);
  }
}

}  // namespace nanite_cull::cuda
