// Resolving on a device: its launches. Compiled and simulated, never run.
#pragma once

#include "core/resolve_pixel.h"
#include "raster/device_raster.h"
#include "raster/two_pass.h"

namespace nanite_cull::cuda {

struct ResolvePass;

// The drawn pixels of an image, by their material.
class PixelBins {
 public:
  // Queued. `bins`: how many there are.
  void find(const ResolvePass& pass, uint32_t bins, dev::Stream stream);

  // In device memory: numbers of pixels, and how many.
  const uint32_t* list() const { return list_.data(); }
  const uint32_t* listed() const { return places_.data() + (places_.size() - 1); }

 private:
  DeviceArray<uint32_t> bins_, places_, list_;
};

class Resolver {
 public:
  // Queues what velocities need: where the instances in view were in the frame before, of which `before` says
  // what is known. The scene is up to date, and as it was when `culler` found what is in view.
  void find_motion(DeviceScene& scene, const Culler& culler, const Scene& source, const Track& track,
                   const History::Seen& before, dev::Stream stream);
  // Queues: what `culler` found in its view is drawn in this one.
  void draw_from(const DeviceScene& scene, Culler& culler, const View& view, dev::Stream stream);
  void forget_motion() { has_motion_ = false; }

  // Queues resolve() of resolve/resolve.h, of what `rasteriser` drew of what `culler` found. `targets` and
  // `out`, (height, width, 4), are device memory. Throws std::runtime_error for what CUDA refuses.
  void resolve(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
               const ResolveTargets& targets, dev::Stream stream);
  void resolve_albedo(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser, float* out,
                      dev::Stream stream);

 private:
  bool has_motion_ = false;
  PixelBins bins_;
  DeviceArray<float> before_;  // (instances, 16)
};

}  // namespace nanite_cull::cuda
