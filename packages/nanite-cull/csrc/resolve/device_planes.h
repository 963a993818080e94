// What pixels say by themselves, on a device: its launches. Compiled and simulated, never run.
#pragma once

#include "core/lens.h"
#include "raster/device_raster.h"
#include "resolve/unproject.h"

namespace nanite_cull::cuda {

// Of what `rasteriser` drew; `out` is device memory. All are queued, and throw std::runtime_error for what
// CUDA refuses.
void find_coverage(const Rasteriser& rasteriser, uint8_t* out, dev::Stream stream);
// Infinite where nothing was drawn. `lens`: rays are not read.
void find_distances(const Rasteriser& rasteriser, const Lens& lens, float* out, dev::Stream stream);
// (n, 2): instance and cluster of each of the n clusters that `culler` found; small ones first.
void list_clusters(const Culler& culler, uint32_t* out, dev::Stream stream);

class Unprojector {
 public:
  // unproject() of resolve/unproject.h. `camera` stays until the stream has been waited for.
  void find_places(const Rasteriser& rasteriser, const Unprojection& camera, float* out, dev::Stream stream);

 private:
  DeviceArray<Wide> rays_[2];
};

}  // namespace nanite_cull::cuda
