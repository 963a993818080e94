#include "resolve/unproject.h"

#include <algorithm>
#include <limits>

#include "core/unproject_pixel.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

BasicUnprojection<double> view_of(const Unprojection& camera) {
  BasicUnprojection<double> out{};
  out.ray_x = camera.ray_x.data(), out.ray_y = camera.ray_y.data();
  std::copy_n(camera.to_world, 9, out.to_world), std::copy_n(camera.eye, 3, out.eye);
  out.orthographic = camera.orthographic;
  out.near_distance = camera.near_distance, out.far_distance = camera.far_distance;
  return out;
}

}  // namespace

void unproject(const VisibilityBuffer& buffer, const Unprojection& unprojection, float* out, int threads) {
  const BasicUnprojection<double> camera = view_of(unprojection);
  native::parallel_for(buffer.height, 8, threads, [&](int64_t first, int64_t last) {
    for (int64_t y = first; y < last; ++y)
      for (int x = 0; x < buffer.width; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        if (buffer.depth[at] > 0)
          place_of(camera, x, static_cast<int>(y), buffer.depth[at], out + 3 * at);
        else
          std::fill_n(out + 3 * at, 3, std::numeric_limits<float>::quiet_NaN());
      }
  });
}

}  // namespace nanite_cull
