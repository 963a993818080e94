#include "raster/motion.h"

#include <algorithm>

#include "native/parallel.h"

namespace nanite_cull {

void find_motion(const Scene& scene, const Draws& draws, const View& before, const Track& track,
                 uint64_t epoch, int threads, Motion& out) {
  out.to_clip.resize(16 * draws.draws.size());
  native::parallel_for(draws.draws.size(), 1024, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Draw& draw = draws.draws[i];
      Placement place;
      const Placement now = scene.placement(draw.instance);
      if (!track.previous(draw.instance, epoch, now, place)) place = now;
      const OcclusionView then = make_occlusion_view(before, *scene.assets[draw.asset], place);
      std::copy_n(then.to_clip, 16, &out.to_clip[16 * i]);
    }
  });
}

}  // namespace nanite_cull
