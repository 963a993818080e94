#include "resolve/unproject.h"

#include <algorithm>
#include <limits>

#include "native/parallel.h"

namespace nanite_cull {

namespace {

// Distance along the axis of what was drawn, camera units.
double along_axis(const Unprojection& camera, float depth) {
  return camera.orthographic
             ? float(camera.far_distance - depth * (camera.far_distance - camera.near_distance))
             : float(camera.near_distance) / depth;
}

void place_of(const Unprojection& camera, int x, int y, float depth, float* out) {
  const double along = along_axis(camera, depth), across = camera.orthographic ? 1 : along;
  const double ray[3] = {across * camera.ray_x[x], across * camera.ray_y[y], -along};
  const double* m = camera.to_world;
  for (int i = 0; i < 3; ++i)
    out[i] = static_cast<float>(((ray[0] * m[3 * i] + ray[1] * m[3 * i + 1]) + ray[2] * m[3 * i + 2]) +
                                camera.eye[i]);
}

}  // namespace

void unproject(const VisibilityBuffer& buffer, const Unprojection& camera, float* out, int threads) {
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
