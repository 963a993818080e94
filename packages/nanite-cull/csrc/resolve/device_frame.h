// A frame on a device, for hosts that know no CUDA: the scene is kept there, culled and drawn, and the
// picture comes back. Compiled and simulated, never run.
#pragma once

#include <memory>

#include "core/resolve_pixel.h"
#include "raster/two_pass.h"
#include "resolve/light.h"
#include "resolve/shade.h"

namespace nanite_cull::cuda {

// How many devices answer; 0 without a driver.
int device_count();

// What a pixel means, by name; the numbers it takes, and whether they are uint32, else float.
enum class Plane { depth, instance, cluster, triangle, level, material, normal, uv, color, velocity, albedo };
constexpr int plane_width(Plane plane) {
  return plane == Plane::normal                            ? 3
         : plane == Plane::uv || plane == Plane::velocity  ? 2
         : plane == Plane::color || plane == Plane::albedo ? 4
                                                           : 1;
}
constexpr bool plane_of_ids(Plane plane) { return plane >= Plane::instance && plane <= Plane::material; }

// A plane in the memory of a device, (height, width) by plane_width(), until its last owner goes.
struct DevicePlane {
  std::shared_ptr<void> memory;  // null: there is none
  int device = 0;
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

  // What resolve() and resolve_albedo() of resolve/ give for that picture, into host memory; false, and
  // nothing is written, where the device holds another one by now. Waits for the device.
  bool resolve(uint64_t picture, const ResolveTargets& targets);
  bool resolve_albedo(uint64_t picture, float* out);

  // One of them in device memory, made for the caller and nobody else's; no memory where the device holds
  // another picture by now. Waits for the device, so any stream may read it.
  DevicePlane plane(uint64_t picture, Plane which);

  // What find_light() and shade() of resolve/ give, likewise. `lights`: in place of the lamp's light; may be
  // null. `direct` of `shading` is not read.
  bool find_light(uint64_t picture, const Lens& lens, const double* eye, const Lights& lights,
                  const LightTargets& targets);
  bool shade(uint64_t picture, const Lens& lens, const double* eye, const Lights* lights,
             const Shading& shading, uint8_t* out);

  // Depth alone of views of one size, one behind the other in `out`: what draw_views() has without histories.
  // Else as cull().
  void draw_views(const Scene& scene, const Streamer::Hold& streamed, const std::vector<View>& views,
                  const CullOptions& culling, const RasterOptions& drawing, float* out, CullStats& cull_stats,
                  RasterStats& raster_stats);

  // The next frame takes nothing from the last one.
  void forget();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace nanite_cull::cuda
