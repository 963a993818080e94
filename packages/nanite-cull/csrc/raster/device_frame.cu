#include "raster/device_frame.h"

#include "raster/device_two_pass.h"

namespace nanite_cull::cuda {

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // said here: no later call takes it for its own
  return 0;
}

struct DeviceFrame::Parts {
  int device = 0;
  DeviceScene scene;
  Culler culler;
  Rasteriser rasteriser;
  DeviceHistory history;
};

namespace {

// The device of a frame is current while this lives.
class On {
 public:
  explicit On(int device) {
    dev::check(cudaGetDevice(&before_), "DeviceFrame");
    dev::check(cudaSetDevice(device), "DeviceFrame");
  }
  ~On() { cudaSetDevice(before_); }
  On(const On&) = delete;
  On& operator=(const On&) = delete;

 private:
  int before_ = 0;
};

}  // namespace

DeviceFrame::DeviceFrame() : parts_(std::make_unique<Parts>()) {
  dev::check(cudaGetDevice(&parts_->device), "DeviceFrame");
}

DeviceFrame::~DeviceFrame() = default;

void DeviceFrame::cull(const Scene& scene, const View& view, const CullOptions& options, VisibleClusters& out,
                       CullStats& stats) {
  const On on(parts_->device);
  parts_->scene.update(scene, nullptr);
  parts_->culler.cull(parts_->scene, view, options, nullptr);
  parts_->culler.read_back(out, stats, nullptr);
}

void DeviceFrame::draw(const Scene& scene, const View& view, const CullOptions& culling,
                       const RasterOptions& drawing, bool occlusion, VisibleClusters& visible,
                       CullStats& cull_stats, VisibilityBuffer& out, RasterStats& raster_stats) {
  const On on(parts_->device);
  Parts& p = *parts_;
  p.scene.update(scene, nullptr);
  if (occlusion) {
    p.history.draw(p.scene, p.culler, p.rasteriser, view, culling, drawing, raster_stats, nullptr);
  } else {
    p.culler.cull(p.scene, view, culling, nullptr);
    p.rasteriser.draw(p.scene, p.culler, view, drawing, raster_stats, nullptr);
  }
  p.culler.read_back(visible, cull_stats, nullptr);
  p.rasteriser.read_back(out, nullptr);
}

void DeviceFrame::draw_views(const Scene& scene, const std::vector<View>& views, const CullOptions& culling,
                             const RasterOptions& drawing, float* out, CullStats& cull_stats,
                             RasterStats& raster_stats) {
  const On on(parts_->device);
  Parts& p = *parts_;
  p.scene.update(scene, nullptr);
  cuda::draw_views(p.scene, p.culler, p.rasteriser, views, culling, drawing, out, cull_stats, raster_stats,
                   nullptr);
}

void DeviceFrame::forget() { parts_->history.forget(); }

}  // namespace nanite_cull::cuda
