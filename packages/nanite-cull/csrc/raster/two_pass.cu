#include <utility>

#include "raster/depth_pyramid.cuh"
#include "raster/device_two_pass.h"

namespace nanite_cull::cuda {

void DeviceHistory::draw(DeviceScene& scene, Culler& culler, Rasteriser& rasteriser, const View& view,
                         const CullOptions& culling, const RasterOptions& drawing, RasterStats& stats,
                         dev::Stream stream) {
  const bool known = width_ > 0 && source_ == scene.source();
  const LastFrame last{known ? hzb_of(texels_[0].data(), width_, height_) : Hzb(), view_,
                       scene.places_before(), scene.count_before()};
  culler.cull(scene, view, culling, stream, known ? &last : nullptr);
  rasteriser.draw(scene, culler, view, drawing, stats, stream);
  DeviceArray<float>& drawn = texels_[1];
  drawn.resize(static_cast<size_t>(hzb_offset(view.width, view.height, hzb_levels(view.width, view.height))));
  const auto build = [&] {
    build_pyramid(rasteriser.pixels().data(), view.width, view.height, drawn.data(), stream);
  };
  build();
  if (known) {
    culler.post_pass(hzb_of(drawn.data(), view.width, view.height), stream);
    rasteriser.draw_added(culler, stats, stream);
    build();
  }
  std::swap(texels_[0], texels_[1]);
  scene.keep_places(stream);
  width_ = view.width, height_ = view.height, view_ = view, source_ = scene.source();
}

}  // namespace nanite_cull::cuda
