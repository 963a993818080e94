// Where the instances of a frame were in the frame before, for velocities.
#pragma once

#include "cull/cull.h"

namespace nanite_cull {

// (draws, 16): object to clip in the last frame's view, at the place that the instance had then; one that was
// not there yet counts as standing still. Empty where there is no frame before.
struct Motion {
  std::vector<float> to_clip;
};

// `before`: the last frame's view; `epoch`: of the track, since that frame. The caller has held the scene's
// lock since the draws were collected.
void find_motion(const Scene& scene, const Draws& draws, const View& before, const Track& track,
                 uint64_t epoch, int threads, Motion& out);

}  // namespace nanite_cull
