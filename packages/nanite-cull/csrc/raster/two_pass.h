// Culling and drawing with two-pass occlusion (Greene, Kass and Miller 1993, in the form of Haar and
// Aaltonen, "GPU-Driven Rendering Pipelines", SIGGRAPH 2015, and of Karis et al. 2021).
//
// What the last frame saw is drawn first; its depth then tells what else can be seen. The picture is the one
// without occlusion, bit for bit, whatever the history holds: the post pass leaves out only what is certainly
// behind what was drawn, and equal depths are decided by (view, instance, cluster, triangle), in which order
// the clusters of both passes are merged before the second is drawn.
#pragma once

#include "raster/depth_pyramid.h"
#include "raster/motion.h"
#include "raster/raster.h"

namespace nanite_cull {

// What one frame leaves to the next. Empty before the first and after a cut: then everything is drawn at
// once.
struct History {
  bool occlusion = true;  // false: for velocities alone, nothing is hidden by it
  DepthPyramid pyramid;
  std::shared_ptr<Track> track;  // of the scene that was drawn last
  struct Seen {
    View view;
    uint64_t epoch = 0;     // of the track, since that frame; 0: there was none
    uint64_t revision = 0;  // of the scene, in that frame
  };
  Seen last;    // what the pyramid is of
  Seen before;  // the last frame as a whole: one that waits for pages is drawn more than once

  void begin_frame() { before = last; }
  void forget() { pyramid.clear(), track.reset(), last = before = {}; }
  // Before a frame of a scene: what is known of another one is forgotten.
  void enter(const Scene& scene);
  // What this frame leaves out as hidden; the history stays as it is meanwhile.
  Occluders look_back() const;
  void keep(const View& view, const Scene& scene) { last = {view, track->begin(), scene.revision()}; }
};

// Draws the scene, leaving out what is hidden, and makes this frame the history. `context` knows view and
// options. Holds the scene's lock all the while. `streamer`: as for CullContext::cull. `motion`: where what
// was drawn lay in the last frame; may be null.
void draw_two_pass(CullContext& context, const Scene& scene, const View& view, const RasterOptions& options,
                   History& history, VisibleClusters& visible, Draws& draws, VisibilityBuffer& out,
                   CullStats& cull_stats, RasterStats& raster_stats, const Streamer* streamer = nullptr,
                   Motion* motion = nullptr);

// Depth alone of views of one size, one behind the other in `out`: all are culled side by side, with a
// history for each of them, or without any and then in one pass. `buffer` is overwritten.
void draw_views(CullContext& context, const Scene& scene, const std::vector<View>& views,
                const RasterOptions& options, const std::vector<History*>& histories,
                VisibleClusters& visible, Draws& draws, VisibilityBuffer& buffer, float* out,
                CullStats& cull_stats, RasterStats& raster_stats, const Streamer* streamer);

}  // namespace nanite_cull
