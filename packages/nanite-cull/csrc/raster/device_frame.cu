#include "raster/device_frame.h"

#include "raster/device_raster.h"

namespace nanite_cull::cuda {

struct DeviceFrame::Parts {
  int device = 0;
  DeviceScene scene;
  Culler culler;
  Rasteriser rasteriser;
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

void DeviceFrame::draw(const View& view, const RasterOptions& options, VisibilityBuffer& out,
                       RasterStats& stats) {
  const On on(parts_->device);
  parts_->rasteriser.draw(parts_->scene, parts_->culler, view, options, stats, nullptr);
  parts_->rasteriser.read_back(out, nullptr);
}

}  // namespace nanite_cull::cuda
