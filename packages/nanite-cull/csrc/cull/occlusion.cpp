#include "cull/occlusion.h"

#include "native/dispatch.h"

namespace nanite_cull {

namespace {

#if defined(__x86_64__)
// The same text for eight corners at once.
__attribute__((target("avx2"))) bool occluded_avx2(const OcclusionView& view, const Hzb& hzb, const float* lo,
                                                   const float* hi, float widening) {
  return occluded(view, hzb, lo, hi, widening);
}
#endif

bool hides(const OcclusionView& view, const Hzb& hzb, const float* lo, const float* hi, float widening) {
#if defined(__x86_64__)
  if (native::isa() != native::Isa::baseline) return occluded_avx2(view, hzb, lo, hi, widening);
#endif
  return occluded(view, hzb, lo, hi, widening);
}

}  // namespace

InstanceOcclusion::InstanceOcclusion(const Occluders& occluders, const View& view, const Scene& scene,
                                     const Asset& asset, int64_t instance)
    : occluders_(&occluders) {
  Placement before;
  const Placement place = scene.placement(instance);
  was_there_ = occluders.track->previous(instance, occluders.epoch, place, before);
  if (was_there_) before_ = make_occlusion_view(*occluders.view_before, asset, before);
  if (occluders.post) now_ = make_occlusion_view(view, asset, place);
}

Sight InstanceOcclusion::test(const float* lo, const float* hi, float widening, bool missed) const {
  if (!occluders_) return Sight::seen;
  if (occluders_->post && hides(now_, occluders_->now, lo, hi, widening)) return Sight::hidden;
  if (!missed) missed = was_there_ && hides(before_, occluders_->before, lo, hi, widening);
  return !missed ? Sight::seen : occluders_->post ? Sight::missed : Sight::hidden;
}

}  // namespace nanite_cull
