#include <algorithm>
#include <utility>
#include <vector>

#include "build/srgb.h"
#include "resolve/device_shade.h"
#include "resolve/shade.cuh"

namespace nanite_cull::cuda {

namespace {

// Where the sums of the windows of 2 radius + 1 numbers around each pixel go.
struct Windows {
  int radius;
  WindowSum* out;
};

// `blocks[0]` holds the plane's numbers. In the order of core/hollow.h.
void sum_windows(const SumPlane& plane, DeviceArray<WindowSum> (&blocks)[2],
                 const std::vector<Windows>& windows, dev::Stream stream) {
  const int64_t pixels = int64_t(plane.image.width) * plane.image.height;
  bool more = true;
  for (int power = 1; more; power *= 2) {
    more = false;
    for (const Windows& w : windows) {
      const int size = 2 * w.radius + 1, offset = size & (power - 1);
      if (size & power)
        dev::launch(take_sums, resolve_blocks(pixels), resolve_threads, 0, stream, blocks[0].data(), plane,
                    plane.pad - w.radius + offset, w.out);
      more |= size >= 2 * power;
    }
    if (!more) return;
    dev::launch(double_sums, resolve_blocks(plane.count()), resolve_threads, 0, stream, blocks[0].data(),
                plane, power, blocks[1].data());
    std::swap(blocks[0], blocks[1]);
  }
}

template <class T>
void bring_once(DeviceArray<T>& to, const T* from, size_t count, dev::Stream stream) {
  if (to.size() > 0) return;
  to.resize(count);
  to.upload(from, 0, count, stream);
}

template <class T>
void bring(DeviceArray<T>& to, const T* from, size_t count, dev::Stream stream) {
  to.resize(count);
  to.upload(from, 0, count, stream);
}

}  // namespace

Lens Shader::bring_lens(const Lens& lens, ImageSize image, dev::Stream stream) {
  bring(rays_[0], lens.ray_x, size_t(image.width), stream);
  bring(rays_[1], lens.ray_y, size_t(image.height), stream);
  Lens out = lens;
  out.ray_x = rays_[0].data(), out.ray_y = rays_[1].data();
  return out;
}

void Shader::find_light(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser,
                        const Lens& lens, const double* eye, const Lights& lights, const float* depths,
                        const LightTargets& targets, dev::Stream stream) {
  scene.bring_attributes(stream);
  const LightsFromEye from_here(lights, eye);
  lights_.upload(from_here.lights(), stream), maps_.upload(from_here.maps(), stream);
  dev::wait(stream);  // before the host's lists go
  SeenLights seen = from_here.seen(depths);
  seen.lights = lights_.data(), seen.maps = maps_.data();
  dev::launch(light_pixels, resolve_blocks(rasteriser.pixels().size()), resolve_threads, 0, stream,
              pass_of(scene, culler, rasteriser, nullptr), bring_lens(lens, rasteriser.image(), stream), seen,
              targets);
}

void Shader::sum_squares(const Rasteriser& rasteriser, const Lens& lens, dev::Stream stream) {
  const ImageSize image = rasteriser.image();
  const HollowRadii radii = hollow_radii(image.height);
  const SumPlane rows{image, radii.large, false};
  const SumPlane columns[2] = {{image, radii.small, true}, {image, radii.large, true}};
  // all of one size: they change places
  const auto room = static_cast<size_t>(std::max(rows.count(), columns[1].count()));
  for (auto* plane : {&blocks_[0], &blocks_[1], &rows_[0], &rows_[1]}) plane->resize(room);
  dev::launch(measure_pixels, resolve_blocks(rows.count()), resolve_threads, 0, stream,
              rasteriser.pixels().data(), lens, rows, blocks_[0].data());
  std::vector<Windows> windows;
  for (int i = 0; i < 2; ++i) {
    const int radius = columns[i].pad;
    rows_[i].fill(0, stream);
    windows.push_back({radius, rows_[i].data() + int64_t(radius) * image.width});
  }
  sum_windows(rows, blocks_, windows, stream);
  for (int i = 0; i < 2; ++i) {
    squares_[i].resize(rasteriser.pixels().size());
    squares_[i].fill(0, stream);
    std::swap(blocks_[0], rows_[i]);
    sum_windows(columns[i], blocks_, {{columns[i].pad, squares_[i].data()}}, stream);
  }
}

void Shader::shade(DeviceScene& scene, const Culler& culler, const Rasteriser& rasteriser, const Lens& lens,
                   Shading shading, uint8_t* out, dev::Stream stream) {
  scene.bring_attributes(stream);
  bring_once(bytes_, &byte_table(), 1, stream);
  bring_once(display_, display_table(), display_entries, stream);
  bring(ramp_, shading.ramp, 3 * size_t(shading.ramp_size), stream);
  bring(background_, shading.background, 3 * size_t(rasteriser.image().height), stream);
  shading.bytes = bytes_.data(), shading.display = display_.data();
  shading.ramp = ramp_.data(), shading.background = background_.data();
  const Lens there = bring_lens(lens, rasteriser.image(), stream);
  sum_squares(rasteriser, there, stream);
  dev::launch(shade_pixels, resolve_blocks(rasteriser.pixels().size()), resolve_threads, 0, stream,
              pass_of(scene, culler, rasteriser, nullptr), there, shading, squares_[0].data(),
              squares_[1].data(), out);
}

}  // namespace nanite_cull::cuda
