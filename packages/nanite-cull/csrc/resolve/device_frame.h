// A frame on a device, for hosts that know no CUDA: the scene is kept there, culled and drawn, and the
// picture comes back, or stays. Compiled and simulated, never run.
#pragma once

#include <memory>

#include "core/resolve_pixel.h"
#include "raster/two_pass.h"
#include "resolve/light.h"
#include "resolve/shade.h"
#include "resolve/unproject.h"

namespace nanite_cull::cuda {

// How many devices answer; 0 without a driver.
int device_count();

// What a picture says by itself, by name. Of pixels, (height, width, ..), but for `clusters`: (n, 2).
enum class Plane {
  depth,
  coverage,
  visibility,
  overdraw,
  instance,
  cluster,
  triangle,
  level,
  material,
  normal,
  uv,
  color,
  velocity,
  albedo,
  clusters
};

// Memory of a device until its last owner goes; then the next one that is asked for may take its place.
struct DeviceMemory {
  std::shared_ptr<void> memory;  // null: there is none
  int device = 0;
};

// (views, height, width) depths of views of one size.
struct DeviceDepths : DeviceMemory {
  size_t views = 0;
  int width = 0, height = 0;

  size_t size() const { return views * width * height; }
  // Waits for the device.
  void read_back(float* out) const;
};

// What views are of: each kind has a last frame of its own.
enum class ViewsOf { cameras, lights };

// A lens as find_light() and unproject() of resolve/ take it.
struct FrameLens {
  const Lens& lens;
  const Unprojection& exact;
};

// On the device that was current when it was made, and the default stream. One thread at a time.
class DeviceFrame {
 public:
  // Throws std::runtime_error where no device answers.
  DeviceFrame();
  ~DeviceFrame();

  // The clusters in view: what CullContext::cull() finds, in the same slots. The caller holds the scene's
  // lock; `streamed`: the pages of a streamer that has begun a frame of the scene's assets, which gets the
  // wishes of this one. Waits for the device. Throws native::ValueError for a streamed asset that it did not
  // begin with, for capacities beyond 2^28, and for a traversal that goes by instances; std::runtime_error
  // for what CUDA refuses.
  void cull(const Scene& scene, const Streamer::Hold& streamed, const View& view, const CullOptions& options,
            VisibleClusters& out, CullStats& stats);

  // Culls and draws: the picture that raster() makes. With `occlusion` what the last frame so drawn, and then
  // this one, hide is left out, the picture the same (raster/two_pass.h). `history`: for velocities, what
  // moved since the frame that it knows, and then this one; null: there are none. `culled`: the view in which
  // is culled what `view` shows, without occlusion and history; null: the same. Else as cull(). Returns the
  // number of the picture.
  uint64_t draw(const Scene& scene, const Streamer::Hold& streamed, const View& view,
                const CullOptions& culling, const RasterOptions& drawing, bool occlusion, History* history,
                VisibleClusters& visible, CullStats& cull_stats, VisibilityBuffer& out,
                RasterStats& raster_stats, const View* culled = nullptr);

  // Whether the device still holds that picture. What follows is false, and writes nothing, or has no memory
  // where it does not; all of it waits for the device, so that any stream may read what it gives.
  bool holds(uint64_t picture) const;

  // What resolve() and resolve_albedo() of resolve/ give for that picture, into host memory.
  bool resolve(uint64_t picture, const ResolveTargets& targets);
  bool resolve_albedo(uint64_t picture, float* out);

  // What find_light() and shade() of resolve/ give, likewise. `lights`: with these maps, in place of the
  // lamp's light; null: there are none. `direct` of `shading` and the depths of `lights` are not read.
  bool find_light(uint64_t picture, const FrameLens& lens, const Lights& lights, const DeviceDepths& maps,
                  const LightTargets& targets);
  bool shade(uint64_t picture, const FrameLens& lens, const Lights* lights, const DeviceDepths* maps,
             const Shading& shading, uint8_t* out);

  // The same in device memory, made for the caller and nobody else's. overdraw has none where it was not
  // counted.
  DeviceMemory plane(uint64_t picture, Plane which);
  DeviceMemory distances(uint64_t picture, const FrameLens& lens);                    // (height, width)
  DeviceMemory places(uint64_t picture, const FrameLens& lens);                       // (height, width, 3)
  DeviceMemory light(uint64_t picture, const FrameLens& lens, const Lights& lights,   // of each light
                     const DeviceDepths& maps);                                       // (height, width)
  DeviceMemory shaded(uint64_t picture, const FrameLens& lens, const Lights* lights,  // (height, width, 3)
                      const DeviceDepths* maps, const Shading& shading);              // bytes

  // Depth alone of views of one size, culled and drawn side by side: what draw_views() gives, with a history
  // for each view, by its place in the list, where there is `occlusion`. Capacities hold for all views that
  // are drawn at once. Else as cull().
  DeviceDepths draw_views(const Scene& scene, const Streamer::Hold& streamed, const std::vector<View>& views,
                          const CullOptions& culling, const RasterOptions& drawing, bool occlusion,
                          ViewsOf of, CullStats& cull_stats, RasterStats& raster_stats);

  // The next frame takes nothing from the last one.
  void forget();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace nanite_cull::cuda
