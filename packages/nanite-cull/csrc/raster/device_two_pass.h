// Culling and drawing on a device with two-pass occlusion: raster/two_pass.h there. Compiled and simulated,
// never run.
#pragma once

#include "raster/device_raster.h"

namespace nanite_cull::cuda {

// What one frame leaves to the next. Empty before the first and after a cut: then everything is drawn at
// once.
class DeviceHistory {
 public:
  // Draws the scene, leaving out what is hidden, and makes this frame the history. The scene is up to date.
  // Waits for the stream.
  void draw(DeviceScene& scene, Culler& culler, Rasteriser& rasteriser, const View& view,
            const CullOptions& culling, const RasterOptions& drawing, RasterStats& stats, dev::Stream stream);

  void forget() { width_ = 0; }

 private:
  int width_ = 0, height_ = 0;  // of the pyramid; 0: there is none
  View view_;
  const Scene* source_ = nullptr;  // never followed
  DeviceArray<float> texels_[2];   // of the last frame and of this one
};

}  // namespace nanite_cull::cuda
