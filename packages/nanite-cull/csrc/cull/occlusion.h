// What the main pass and the post pass of a frame leave out because it is hidden (core/occlusion.h).
#pragma once

#include "scene/view.h"

namespace nanite_cull {

// What hides: the last frame's pyramid, the view it was made with and where instances were then; in the post
// pass also the pyramid of what the main pass drew.
struct Occluders {
  Hzb before, now;
  const View* view_before = nullptr;
  const Track* track = nullptr;
  uint64_t epoch = 0;
  bool post = false;
};

// One instance in a pass. Without occluders everything is seen.
class InstanceOcclusion {
 public:
  InstanceOcclusion() = default;
  InstanceOcclusion(const Occluders& occluders, const View& view, const Scene& scene, const Asset& asset,
                    int64_t instance);

  // `missed`: the main pass did not come as far as this box.
  Sight test(const float* lo, const float* hi, float widening, bool missed) const;

  // What this pass draws.
  Sight wanted() const { return occluders_ && occluders_->post ? Sight::missed : Sight::seen; }

 private:
  const Occluders* occluders_ = nullptr;
  bool was_there_ = false;
  OcclusionView before_, now_;
};

}  // namespace nanite_cull
