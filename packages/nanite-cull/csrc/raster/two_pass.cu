#include <algorithm>
#include <utility>

#include "raster/depth_pyramid.cuh"
#include "raster/device_two_pass.h"

namespace nanite_cull::cuda {

namespace {

std::vector<Hzb> pyramids_of(const float* texels, int width, int height, size_t count) {
  std::vector<Hzb> out;
  for (size_t i = 0; i < count; ++i)
    out.push_back(hzb_of(texels + i * pyramid_texels(width, height), width, height));
  return out;
}

}  // namespace

// A frame for each view; none where nothing is known of any.
std::vector<LastFrame> DeviceHistory::look_back(const Scene* source, size_t views) const {
  if (views_.empty() || source_ != source) return {};
  std::vector<LastFrame> out(views);
  const std::vector<Hzb> pyramids = pyramids_of(texels_[0].data(), width_, height_, views_.size());
  for (size_t i = 0; i < std::min(views, views_.size()); ++i)
    out[i] = {pyramids[i], views_[i], places_->records.data(),
              static_cast<uint32_t>(places_->records.size())};
  return out;
}

void DeviceHistory::draw(DeviceScene& scene, Culler& culler, Rasteriser& rasteriser,
                         const std::vector<View>& views, bool ids, const CullOptions& culling,
                         const RasterOptions& drawing, RasterStats& stats, dev::Stream stream) {
  const std::vector<LastFrame> last = look_back(scene.source(), views.size());
  const int width = views.front().width, height = views.front().height;
  culler.cull(scene, views, culling, stream, last);
  rasteriser.draw(scene, culler, views.front(), drawing, stats, stream, views.size());
  DeviceArray<float>& drawn = texels_[1];
  drawn.resize(views.size() * pyramid_texels(width, height));
  const auto build = [&] {
    build_pyramids(rasteriser.pixels().data(), width, height, static_cast<int64_t>(views.size()),
                   drawn.data(), stream);
  };
  build();
  if (!last.empty()) {
    culler.post_pass(pyramids_of(drawn.data(), width, height, views.size()), stream);
    rasteriser.draw_added(culler, ids, stats, stream);
    build();
  }
  std::swap(texels_[0], texels_[1]);
  places_ = scene.keep_places(stream);
  width_ = width, height_ = height, views_ = views, source_ = scene.source();
}

size_t DeviceViews::at_once(const DeviceScene& scene, const View& view) const {
  const int64_t pixels = int64_t(view.width) * view.height, instances = scene.arrays().count;
  const int64_t room = std::min(most_pixels / pixels, most_seen / std::max<int64_t>(instances, 1));
  return static_cast<size_t>(std::max<int64_t>(room, 1));
}

void DeviceViews::draw(DeviceScene& scene, Culler& culler, Rasteriser& rasteriser,
                       const std::vector<View>& views, const CullOptions& culling,
                       const RasterOptions& drawing, bool occlusion, float* depths, CullStats& cull_stats,
                       RasterStats& raster_stats, dev::Stream stream) {
  cull_stats = {}, raster_stats = {};
  const size_t room = at_once(scene, views.front()), stride = std::min(room, views.size());
  const size_t turns = (views.size() + stride - 1) / stride;
  if (!occlusion || room_ != room) histories_.clear();
  room_ = room;
  if (occlusion) histories_.resize(turns);
  for (size_t turn = 0; turn < turns; ++turn) {
    const auto first = views.begin() + turn * stride;
    const std::vector<View> some(first, first + std::min(stride, views.size() - turn * stride));
    RasterStats drawn;
    if (occlusion) {
      histories_[turn].draw(scene, culler, rasteriser, some, false, culling, drawing, drawn, stream);
    } else {
      culler.cull(scene, some, culling, stream);
      rasteriser.draw(scene, culler, some.front(), drawing, drawn, stream, some.size());
    }
    rasteriser.copy_depths(depths, stream);
    depths += rasteriser.pixels().size();
    culler.add_stats(cull_stats, stream);
    raster_stats.add(drawn);
  }
}

}  // namespace nanite_cull::cuda
