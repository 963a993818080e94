// Drawing on a device: what it needs of memory, and its launches. Compiled and simulated, never run.
#pragma once

#include "core/projection.h"
#include "cull/device_cull.h"
#include "raster/raster.h"
#include "raster/raster_pass.h"

namespace nanite_cull::cuda {

class Rasteriser {
 public:
  // Draws what `culler` found in `views` views of the size of `view`. Waits for the stream, to learn whether
  // the lists of large triangles were long enough; if not, they grow and those triangles are set up again.
  // Throws native::ValueError where the buffer of clusters has more slots than ids can name,
  // std::runtime_error for what CUDA refuses.
  void draw(DeviceScene& scene, const Culler& culler, const View& view, const RasterOptions& options,
            RasterStats& stats, dev::Stream stream, size_t views = 1);

  // After the culler's post pass: draws what it brought; with `ids` pixels get their new slots before, for
  // depth alone does not depend on them. Adds to `stats`. Waits for the stream.
  void draw_added(const Culler& culler, bool ids, RasterStats& stats, dev::Stream stream);

  // (views, height, width) words: depth above id.
  const DeviceArray<Count>& pixels() const { return pixels_; }
  ImageSize image() const { return {width_, height_}; }  // of a view
  // As many fragments that were tested; null where they were not counted.
  const uint32_t* overdraw() const { return pass_.overdraw; }

  // Copies the picture of one view to the host. Waits for the stream.
  void read_back(VisibilityBuffer& out, dev::Stream stream);
  // Queues (views, height, width) depths into device memory.
  void copy_depths(float* out, dev::Stream stream) { split(out, nullptr, stream); }

  uint64_t piece_room = 1 << 18, triangle_room = 1 << 16;  // to begin with

 private:
  void run(RasterPass pass, RasterStats& stats, dev::Stream stream);
  void split(float* depths, uint32_t* ids, dev::Stream stream);

  RasterPass pass_ = {};
  int width_ = 0, height_ = 0;
  bool has_holes_ = false;
  DeviceArray<Count> pixels_;
  DeviceArray<uint32_t> left_, ids_, overdraw_;
  DeviceArray<float> depths_;
  DeviceArray<LargeTriangle> triangles_;
  DeviceArray<uint64_t> pieces_;
  DeviceArray<SmallCounts> small_;
  DeviceArray<LargeCounts> large_;
};

}  // namespace nanite_cull::cuda
