#include "resolve/resolve.cuh"

#include <cstring>

#include "resolve/device_resolve.h"

namespace nanite_cull::cuda {

namespace {

int64_t blocks_of(int64_t threads) {
  return dev::grid_blocks((threads + resolve_threads - 1) / resolve_threads, 16);
}

ResolvePass pass_of(const DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
                    const float* before) {
  ResolvePass pass{};
  pass.scene = scene.arrays(), pass.visible = culler.visible().data();
  pass.pixels = rasteriser.pixels().data(), pass.to_clip = culler.to_clip(), pass.before = before;
  pass.image = rasteriser.image();
  return pass;
}

}  // namespace

void Resolver::find_motion(DeviceScene& scene, const Culler& culler, const Scene& source, const Track& track,
                           const History::Seen& before, dev::Stream stream) {
  has_motion_ = before.epoch > 0;
  if (!has_motion_) return;
  scene.bring_motion(source, track, before.epoch, before.revision, stream);
  const int64_t lanes = int64_t(scene.arrays().count) * 16;
  before_.resize(static_cast<size_t>(lanes));
  BasicView<Wide> view;
  static_assert(sizeof(view) == sizeof(before.view), "the same bits");
  std::memcpy(&view, &before.view, sizeof(view));
  dev::launch(project_before, blocks_of(lanes), resolve_threads, 0, stream, view, scene.motion(),
              culler.entered(), &culler.counts()->entered, before_.data());
}

void Resolver::resolve(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
                       const ResolveTargets& targets, dev::Stream stream) {
  scene.bring_attributes(stream);
  const ResolvePass pass = pass_of(scene, culler, rasteriser, has_motion_ ? before_.data() : nullptr);
  dev::launch(resolve_pixels, blocks_of(rasteriser.pixels().size()), resolve_threads, 0, stream, pass,
              targets);
}

void Resolver::resolve_albedo(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
                              float* out, dev::Stream stream) {
  scene.bring_attributes(stream);
  dev::launch(resolve_albedos, blocks_of(rasteriser.pixels().size()), resolve_threads, 0, stream,
              pass_of(scene, culler, rasteriser, nullptr), scene.light(), out);
}

}  // namespace nanite_cull::cuda
