// Culling and drawing on a device with two-pass occlusion: raster/two_pass.h there, of one view or of several
// side by side. Compiled and simulated, never run.
#pragma once

#include "raster/device_raster.h"

namespace nanite_cull::cuda {

// What one frame leaves to the next. Empty before the first and after a cut: then everything is drawn at
// once.
class DeviceHistory {
 public:
  // Draws the scene in views of one size, leaving out what is hidden, and makes this frame the history, by
  // the views' places in the list. `ids`: of pixels are right, else depths alone. The scene is up to date.
  // Waits for the stream.
  void draw(DeviceScene& scene, Culler& culler, Rasteriser& rasteriser, const std::vector<View>& views,
            bool ids, const CullOptions& culling, const RasterOptions& drawing, RasterStats& stats,
            dev::Stream stream);

  void forget() { views_.clear(); }

 private:
  std::vector<LastFrame> look_back(const Scene* source, size_t views) const;

  int width_ = 0, height_ = 0;     // of the pyramids
  std::vector<View> views_;        // none: there are no pyramids
  const Scene* source_ = nullptr;  // never followed
  std::shared_ptr<const Places> places_;
  DeviceArray<float> texels_[2];  // of the last frame and of this one, view by view
};

// Depth alone of any number of views of one size, as many side by side as have room.
class DeviceViews {
 public:
  // `depths`: (views, height, width) in device memory, as draw_views() of raster/two_pass.h has them; with
  // `occlusion` each view leaves out what its last frame, by its place in the list, and then this one hide.
  // Waits for the stream.
  void draw(DeviceScene& scene, Culler& culler, Rasteriser& rasteriser, const std::vector<View>& views,
            const CullOptions& culling, const RasterOptions& drawing, bool occlusion, float* depths,
            CullStats& cull_stats, RasterStats& raster_stats, dev::Stream stream);

  void forget() { histories_.clear(); }

  // Of views at once: instances times views, and pixels. Half a gigabyte to two.
  int64_t most_seen = 1 << 22, most_pixels = 1 << 26;

 private:
  size_t at_once(const DeviceScene& scene, const View& view) const;

  size_t room_ = 0;  // views at once
  std::vector<DeviceHistory> histories_;
};

}  // namespace nanite_cull::cuda
