#include "resolve/resolve.h"

#include "native/parallel.h"
#include "resolve/interpolator.h"

namespace nanite_cull {

void resolve(const Draws& draws, const View& view, const VisibleClusters& visible,
             const VisibilityBuffer& buffer, const Motion& motion, const ResolveTargets& targets,
             int threads) {
  const ImageSize image{view.width, view.height};
  native::parallel_for(buffer.height, 16, threads, [&](int64_t first, int64_t last) {
    Interpolator tri;
    const Wants wants = targets.wants();
    for (int64_t y = first; y < last; ++y)
      for (int x = 0; x < buffer.width; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        if (!(buffer.depth[at] > 0)) {
          resolve_nothing(static_cast<int64_t>(at), targets);
          continue;
        }
        if (!tri.valid || tri.id != buffer.id[at]) tri.prepare(draws, visible, buffer.id[at], wants);
        const float* const before =
            motion.to_clip.empty() ? nullptr : &motion.to_clip[16 * (tri.draw - draws.draws.data())];
        resolve_pixel(tri, tri.draw->instance, before, x, static_cast<int>(y), image, targets);
      }
  });
}

}  // namespace nanite_cull
