#include "resolve/planes.cuh"

#include <cstring>

#include "resolve/device_planes.h"

namespace nanite_cull::cuda {

namespace {

Wide wide(double x) {
  Wide out;
  static_assert(sizeof(out) == sizeof(x), "the same bits");
  std::memcpy(static_cast<void*>(&out), &x, sizeof(x));
  return out;
}

const Wide* bring_rays(DeviceArray<Wide>& to, const std::vector<double>& from, dev::Stream stream) {
  to.resize(from.size());
  dev::upload(to.data(), from.data(), from.size() * sizeof(double), stream);
  return to.data();
}

}  // namespace

void find_coverage(const Rasteriser& rasteriser, uint8_t* out, dev::Stream stream) {
  const auto count = static_cast<int64_t>(rasteriser.pixels().size());
  dev::launch(cover_pixels, resolve_blocks(count), resolve_threads, 0, stream, rasteriser.pixels().data(),
              count, out);
}

void find_distances(const Rasteriser& rasteriser, const Lens& lens, float* out, dev::Stream stream) {
  const auto count = static_cast<int64_t>(rasteriser.pixels().size());
  Lens there = lens;
  there.ray_x = there.ray_y = nullptr;
  dev::launch(distance_pixels, resolve_blocks(count), resolve_threads, 0, stream, rasteriser.pixels().data(),
              count, there, out);
}

void list_clusters(const Culler& culler, uint32_t* out, dev::Stream stream) {
  const auto capacity = static_cast<uint32_t>(culler.visible().size());
  dev::launch(list_visible, resolve_blocks(capacity), resolve_threads, 0, stream, culler.visible().data(),
              culler.counts(), capacity, out);
}

void Unprojector::find_places(const Rasteriser& rasteriser, const Unprojection& camera, float* out,
                              dev::Stream stream) {
  BasicUnprojection<Wide> there{};
  there.ray_x = bring_rays(rays_[0], camera.ray_x, stream);
  there.ray_y = bring_rays(rays_[1], camera.ray_y, stream);
  for (int i = 0; i < 9; ++i) there.to_world[i] = wide(camera.to_world[i]);
  for (int i = 0; i < 3; ++i) there.eye[i] = wide(camera.eye[i]);
  there.orthographic = camera.orthographic;
  there.near_distance = wide(camera.near_distance), there.far_distance = wide(camera.far_distance);
  dev::launch(unproject_pixels, resolve_blocks(static_cast<int64_t>(rasteriser.pixels().size())),
              resolve_threads, 0, stream, rasteriser.pixels().data(), rasteriser.image(), there, out);
}

}  // namespace nanite_cull::cuda
