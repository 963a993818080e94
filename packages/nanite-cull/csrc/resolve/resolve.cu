#include "resolve/resolve.cuh"

#include <cstring>

#include "resolve/bins.cuh"
#include "resolve/device_resolve.h"

namespace nanite_cull::cuda {

namespace {

// `out`: (instances, 16), of those that `culler` found in view where `places` says.
void project(const DeviceScene& scene, const InstanceRecord* places, const Culler& culler, const View& from,
             float* out, dev::Stream stream) {
  BasicView<Wide> view;
  static_assert(sizeof(view) == sizeof(from), "the same bits");
  std::memcpy(static_cast<void*>(&view), &from, sizeof(view));
  dev::launch(project_instances, resolve_blocks(int64_t(scene.arrays().count) * 16), resolve_threads, 0,
              stream, view, places, culler.entered(), &culler.counts()->entered, out);
}

}  // namespace

void Resolver::find_motion(DeviceScene& scene, const Culler& culler, const Scene& source, const Track& track,
                           const History::Seen& before, dev::Stream stream) {
  has_motion_ = before.epoch > 0;
  if (!has_motion_) return;
  scene.bring_motion(source, track, before.epoch, before.revision, stream);
  const int64_t lanes = int64_t(scene.arrays().count) * 16;
  before_.resize(static_cast<size_t>(lanes));
  project(scene, scene.motion(), culler, before.view, before_.data(), stream);
}

void Resolver::draw_from(const DeviceScene& scene, Culler& culler, const View& view, dev::Stream stream) {
  project(scene, scene.arrays().instances, culler, view, culler.to_clip(), stream);
}

void Resolver::resolve(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
                       const ResolveTargets& targets, dev::Stream stream) {
  scene.bring_attributes(stream);
  const ResolvePass pass = pass_of(scene, culler, rasteriser, has_motion_ ? before_.data() : nullptr);
  dev::launch(resolve_pixels, resolve_blocks(rasteriser.pixels().size()), resolve_threads, 0, stream, pass,
              targets);
}

void PixelBins::find(const ResolvePass& pass, uint32_t bins, dev::Stream stream) {
  const int64_t pixels = int64_t(pass.image.width) * pass.image.height;
  bins_.resize(pixels), list_.resize(pixels), places_.resize(size_t(bins) + 1);
  places_.fill(0, stream);
  dev::launch(count_bins, resolve_blocks(pixels), resolve_threads, 0, stream, pass, bins_.data(),
              places_.data());
  dev::launch(scan_bins, 1, 32, 0, stream, places_.data(), bins);
  dev::launch(scatter_pixels, resolve_blocks(pixels), resolve_threads, 0, stream, pass.image, bins_.data(),
              places_.data(), list_.data());
}

void Resolver::resolve_albedo(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
                              float* out, dev::Stream stream) {
  scene.bring_attributes(stream);
  const ResolvePass pass = pass_of(scene, culler, rasteriser, nullptr);
  const size_t pixels = rasteriser.pixels().size();
  bins_.find(pass, scene.bins(), stream);
  dev::fill_bytes(out, 0, 4 * pixels * sizeof(float), stream);
  dev::launch(resolve_albedos, resolve_blocks(pixels), resolve_threads, 0, stream, pass, bins_.list(),
              bins_.listed(), scene.light(), out);
}

}  // namespace nanite_cull::cuda
