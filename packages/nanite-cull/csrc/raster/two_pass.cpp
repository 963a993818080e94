#include "raster/two_pass.h"

#include <algorithm>
#include <iterator>
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

void History::enter(const Scene& scene) {
  if (track && scene.keeps(*track)) return;
  forget();
  track = scene.track();
}

Occluders History::look_back() const {
  Occluders out;
  if (last.epoch > 0) out.before = pyramid.hzb();
  out.view_before = &last.view, out.track = track.get(), out.epoch = last.epoch;
  return out;
}

void draw_two_pass(CullContext& context, const Scene& scene, const View& view, const RasterOptions& options,
                   History& history, VisibleClusters& visible, Draws& draws, VisibilityBuffer& out,
                   CullStats& cull_stats, RasterStats& raster_stats, const Streamer* streamer,
                   Motion* motion) {
  const std::shared_lock held(scene.lock);
  const Streamer::Hold streamed(streamer);
  context.find_assets(scene, streamed);
  history.enter(scene);
  std::vector<Occluders> occluders;
  if (history.pyramid.width() > 0) occluders.push_back(history.look_back());
  const bool known = !occluders.empty();

  context.main_pass(scene, occluders, visible, cull_stats);
  context.collect_draws(scene, visible, draws);
  raster(draws, view, visible, options, out, raster_stats);
  if (!history.occlusion) {
    history.pyramid.clear();
  } else if (!known) {
    history.pyramid.build(out.depth.data(), out.width, out.height, options.threads);
  } else {
    DepthPyramid drawn;
    drawn.build(out.depth.data(), out.width, out.height, options.threads);
    occluders[0].now = drawn.hzb(), occluders[0].post = true;
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
  if (motion && history.before.epoch > 0)
    find_motion(scene, draws, history.before.view, *history.track, history.before.epoch, options.threads,
                *motion);
  history.keep(view, scene);
}

void draw_views(CullContext& context, const Scene& scene, const std::vector<View>& views,
                const RasterOptions& options, const std::vector<History*>& histories,
                VisibleClusters& visible, Draws& draws, VisibilityBuffer& buffer, float* out,
                CullStats& cull_stats, RasterStats& raster_stats, const Streamer* streamer) {
  const std::shared_lock held(scene.lock);
  const Streamer::Hold streamed(streamer);
  context.find_assets(scene, streamed);
  std::vector<Occluders> occluders;
  bool known = false;
  for (History* history : histories) {
    history->enter(scene);
    occluders.push_back(history->look_back());
    known |= occluders.back().before.levels > 0;
  }
  if (!known) occluders.clear();
  context.main_pass(scene, occluders, visible, cull_stats);
  context.collect_draws(scene, visible, draws);
  const size_t pixels = size_t(views.front().width) * views.front().height;
  raster_stats = {};
  for (size_t i = 0; i < views.size(); ++i) {
    RasterStats stats;
    raster(draws, views[i], visible, options, buffer, stats, static_cast<uint32_t>(i));
    std::copy(buffer.depth.begin(), buffer.depth.end(), out + i * pixels);
    raster_stats.add(stats);
  }
  if (histories.empty()) return;

  auto pyramid_of = [&](size_t i, DepthPyramid& pyramid) {
    pyramid.build(out + i * pixels, views[i].width, views[i].height, options.threads);
  };
  std::vector<DepthPyramid> drawn(views.size());
  for (size_t i = 0; i < views.size(); ++i) pyramid_of(i, drawn[i]);
  CullContext::Merge merge;
  if (known) {
    for (size_t i = 0; i < views.size(); ++i) occluders[i].now = drawn[i].hzb(), occluders[i].post = true;
    context.post_pass(scene, occluders, visible, cull_stats, merge);
    if (!merge.added.empty()) context.collect_draws(scene, visible, draws);
  }
  for (size_t i = 0; i < views.size(); ++i) {
    std::vector<uint32_t> added;  // depth alone does not depend on the ids of what was drawn before
    std::copy_if(merge.added.begin(), merge.added.end(), std::back_inserter(added),
                 [&](uint32_t slot) { return visible.buffer[slot].view == i; });
    if (!added.empty()) {
      std::copy_n(out + i * pixels, pixels, buffer.depth.begin());
      raster_added(draws, visible, added, options, buffer, raster_stats);
      std::copy(buffer.depth.begin(), buffer.depth.end(), out + i * pixels);
      pyramid_of(i, drawn[i]);
    }
    std::swap(histories[i]->pyramid, drawn[i]);
    histories[i]->keep(views[i], scene);
  }
}

}  // namespace nanite_cull
