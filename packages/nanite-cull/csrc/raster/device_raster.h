// Drawing on a device: what it needs of memory, and its launches. Compiled and simulated, never run.
#pragma once

#include "core/projection.h"
#include "cull/device_cull.h"
#include "raster/raster.h"
#include "raster/raster_pass.h"

namespace nanite_cull::cuda {

class Rasteriser {
 public:
  // Draws what `culler` found. Waits for the stream, to learn whether the lists of large triangles were long
  // enough; if not, they grow and those triangles are set up again. Throws native::ValueError where the
  // buffer of clusters has more slots than ids can name, std::runtime_error for what CUDA refuses.
  void draw(const DeviceScene& scene, const Culler& culler, const View& view, const RasterOptions& options,
            RasterStats& stats, dev::Stream stream);

  // After the culler's post pass: gives the pixels their new slots and draws what it brought. Adds to
  // `stats`. Waits for the stream.
  void draw_added(const Culler& culler, RasterStats& stats, dev::Stream stream);

  // (height, width) words: depth above id.
  const DeviceArray<Count>& pixels() const { return pixels_; }
  ImageSize image() const { return {width_, height_}; }

  // Copies the picture to the host, or its (height, width) depths alone. Waits for the stream.
  void read_back(VisibilityBuffer& out, dev::Stream stream);
  void read_back_depths(float* out, dev::Stream stream);
  // Queues them into device memory.
  void copy_depths(float* out, dev::Stream stream);

  uint64_t piece_room = 1 << 18, triangle_room = 1 << 16;  // to begin with

 private:
  void run(RasterPass pass, RasterStats& stats, dev::Stream stream);
  void split(float* depths, dev::Stream stream);

  RasterPass pass_ = {};
  int width_ = 0, height_ = 0;
  bool has_holes_ = false;
  DeviceArray<Count> pixels_;
  DeviceArray<uint32_t> left_, ids_;
  DeviceArray<float> depths_;
  DeviceArray<LargeTriangle> triangles_;
  DeviceArray<uint64_t> pieces_;
  DeviceArray<SmallCounts> small_;
  DeviceArray<LargeCounts> large_;
};

// Depth alone of views of one size, one behind the other in `out`, as draw_views() of raster/two_pass.h has
// them without histories; culled and drawn one after the other. Waits for the stream.
void draw_views(const DeviceScene& scene, Culler& culler, Rasteriser& rasteriser,
                const std::vector<View>& views, const CullOptions& culling, const RasterOptions& drawing,
                float* out, CullStats& cull_stats, RasterStats& raster_stats, dev::Stream stream);

}  // namespace nanite_cull::cuda
