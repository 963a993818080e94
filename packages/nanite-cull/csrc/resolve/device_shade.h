// Light and pictures on a device: what they need of memory, and their launches. Compiled and simulated, never
// run.
#pragma once

#include "raster/device_raster.h"
#include "resolve/light.h"
#include "resolve/shade.h"

namespace nanite_cull::cuda {

struct WindowSum;

class Shader {
 public:
  // Queues find_light() of resolve/light.h, of what `rasteriser` drew of what `culler` found. `lens` is the
  // host's and stays until the stream has been waited for; the maps' depths, in place of those of `lights`,
  // and `targets` are device memory. Throws std::runtime_error for what CUDA refuses.
  void find_light(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser, const Lens& lens,
                  const double* eye, const Lights& lights, const float* depths, const LightTargets& targets,
                  dev::Stream stream);

  // Queues shade() of resolve/shade.h. As find_light(); of `shading` ramp and background are the host's,
  // `direct` and `out` are device memory.
  void shade(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser, const Lens& lens,
             Shading shading, uint8_t* out, dev::Stream stream);

 private:
  Lens bring_lens(const Lens& lens, ImageSize image, dev::Stream stream);
  void sum_squares(const Rasteriser& rasteriser, const Lens& lens, dev::Stream stream);

  DeviceArray<float> rays_[2], ramp_, background_, display_;
  DeviceArray<ByteTable> bytes_;
  DeviceArray<SeenLight> lights_;
  DeviceArray<SeenMap> maps_;
  // of windows: blocks as they double, sums along rows and of squares, small ones and large ones
  DeviceArray<WindowSum> blocks_[2], rows_[2], squares_[2];
};

}  // namespace nanite_cull::cuda
