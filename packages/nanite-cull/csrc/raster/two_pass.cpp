#include "raster/two_pass.h"

#include <shared_mutex>
#include <utility>

#include "native/parallel.h"

namespace nanite_cull {

namespace {

// Gives the pixels of the main pass the slots that their clusters have now.
void rename(const CullContext::Merge& merge, size_t slots, int threads, VisibilityBuffer& out) {
  native::parallel_for(out.height, 64, threads, [&](int64_t first, int64_t last) {
    for (size_t at = size_t(first) * out.width; at < size_t(last) * out.width; ++at) {
      if (!(out.depth[at] > 0)) continue;
      const uint32_t slot = out.id[at] >> triangle_bits, triangle = out.id[at] & ((1u << triangle_bits) - 1);
      const uint32_t now = slot < merge.small.size() ? merge.small[slot] : merge.large[slots - 1 - slot];
      out.id[at] = now << triangle_bits | triangle;
    }
  });
}

}  // namespace

void draw_two_pass(CullContext& context, const Scene& scene, const View& view, const RasterOptions& options,
                   History& history, VisibleClusters& visible, Draws& draws, VisibilityBuffer& out,
                   CullStats& cull_stats, RasterStats& raster_stats, const Streamer* streamer,
                   Motion* motion) {
  const std::shared_lock held(scene.lock);
  const Streamer::Hold streamed(streamer);
  context.find_assets(scene, streamed);
  const bool known = history.last.scene == &scene && history.pyramid.width() > 0;
  Occluders occluders;
  if (known)
    occluders.before = history.pyramid.hzb(), occluders.view_before = &history.last.view,
    occluders.epoch = history.last.epoch;

  context.main_pass(scene, known ? &occluders : nullptr, visible, cull_stats);
  context.collect_draws(scene, visible, draws);
  raster(draws, view, visible, options, out, raster_stats);
  if (!history.occlusion) {
    history.pyramid.clear();
  } else if (!known) {
    history.pyramid.build(out.depth.data(), out.width, out.height, options.threads);
  } else {
    DepthPyramid drawn;
    drawn.build(out.depth.data(), out.width, out.height, options.threads);
    occluders.now = drawn.hzb(), occluders.post = true;
    CullContext::Merge merge;
    context.post_pass(scene, occluders, visible, cull_stats, merge);
    std::swap(history.pyramid, drawn);
    if (!merge.added.empty()) {
      context.collect_draws(scene, visible, draws);
      rename(merge, visible.buffer.size(), options.threads, out);
      raster_added(draws, visible, merge.added, options, out, raster_stats);
      history.pyramid.build(out.depth.data(), out.width, out.height, options.threads);
    }
  }
  if (motion) motion->to_clip.clear();
  if (motion && history.before.scene == &scene)
    find_motion(scene, draws, history.before.view, history.before.epoch, options.threads, *motion);
  history.last = {view, &scene, scene.begin_epoch()};
}

}  // namespace nanite_cull
