#include "resolve/device_frame.h"

#include <vector>

#include "raster/device_two_pass.h"
#include "resolve/device_resolve.h"

namespace nanite_cull::cuda {

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // said here: no later call takes it for its own
  return 0;
}

struct DeviceFrame::Parts {
  int device = 0;
  DeviceScene scene;
  Culler culler;
  Rasteriser rasteriser;
  DeviceHistory history;
  Resolver resolver;
  // of views whose depths alone are asked for: a picture stays
  Culler view_culler;
  Rasteriser view_rasteriser;
  uint64_t pictures = 0;  // how many were drawn
  uint64_t drawn = 0;     // the number of the one that is there, with its scene; 0: none

  void update(const Scene& from, const Streamer::Hold& streamed) {
    scene.update(from, nullptr, streamed);
    if (scene.changed_by_last_update()) drawn = 0;
  }

  // Room for a plane of `width` numbers a pixel where the host wants one.
  template <class T>
  T* plane(DeviceArray<T>& memory, const T* host, size_t width) {
    if (host == nullptr) return nullptr;
    memory.resize(width * rasteriser.pixels().size());
    return memory.data();
  }
  DeviceArray<uint32_t> ids[5];
  DeviceArray<float> values[4];
};

namespace {

// The device of a frame is current while this lives.
class On {
 public:
  explicit On(int device) {
    dev::check(cudaGetDevice(&before_), "DeviceFrame");
    dev::check(cudaSetDevice(device), "DeviceFrame");
  }
  ~On() { cudaSetDevice(before_); }
  On(const On&) = delete;
  On& operator=(const On&) = delete;

 private:
  int before_ = 0;
};

}  // namespace

DeviceFrame::DeviceFrame() : parts_(std::make_unique<Parts>()) {
  dev::check(cudaGetDevice(&parts_->device), "DeviceFrame");
}

DeviceFrame::~DeviceFrame() = default;

void DeviceFrame::cull(const Scene& scene, const Streamer::Hold& streamed, const View& view,
                       const CullOptions& options, VisibleClusters& out, CullStats& stats) {
  const On on(parts_->device);
  Parts& p = *parts_;
  p.update(scene, streamed);
  p.view_culler.cull(p.scene, view, options, nullptr);
  p.view_culler.read_back(out, stats, nullptr);
  p.scene.hand_back_wishes(streamed, nullptr);
}

uint64_t DeviceFrame::draw(const Scene& scene, const Streamer::Hold& streamed, const View& view,
                           const CullOptions& culling, const RasterOptions& drawing, bool occlusion,
                           History* history, VisibleClusters& visible, CullStats& cull_stats,
                           VisibilityBuffer& out, RasterStats& raster_stats) {
  const On on(parts_->device);
  Parts& p = *parts_;
  p.drawn = 0;  // until all is there
  p.update(scene, streamed);
  if (occlusion) {
    p.history.draw(p.scene, p.culler, p.rasteriser, view, culling, drawing, raster_stats, nullptr);
  } else {
    p.culler.cull(p.scene, view, culling, nullptr);
    p.rasteriser.draw(p.scene, p.culler, view, drawing, raster_stats, nullptr);
  }
  p.resolver.forget_motion();
  if (history) {
    history->enter(scene);
    p.resolver.find_motion(p.scene, p.culler, scene, *history->track, history->before, nullptr);
    history->keep(view, scene);
  }
  p.culler.read_back(visible, cull_stats, nullptr);
  p.rasteriser.read_back(out, nullptr);
  p.scene.hand_back_wishes(streamed, nullptr);
  return p.drawn = ++p.pictures;
}

bool DeviceFrame::resolve(uint64_t picture, const ResolveTargets& t) {
  Parts& p = *parts_;
  if (picture == 0 || picture != p.drawn) return false;
  const On on(p.device);
  uint32_t* const ids[] = {t.instance, t.cluster, t.triangle, t.level, t.material};
  float* const values[] = {t.normal, t.uv, t.color, t.velocity};
  constexpr size_t widths[] = {3, 2, 4, 2};
  ResolveTargets there;
  uint32_t** const ids_there[] = {&there.instance, &there.cluster, &there.triangle, &there.level,
                                  &there.material};
  float** const values_there[] = {&there.normal, &there.uv, &there.color, &there.velocity};
  for (int i = 0; i < 5; ++i) *ids_there[i] = p.plane(p.ids[i], ids[i], 1);
  for (int i = 0; i < 4; ++i) *values_there[i] = p.plane(p.values[i], values[i], widths[i]);
  p.resolver.resolve(p.scene, p.culler, p.rasteriser, there, nullptr);
  for (int i = 0; i < 5; ++i)
    if (ids[i]) p.ids[i].read_back(ids[i], 0, p.ids[i].size(), nullptr);
  for (int i = 0; i < 4; ++i)
    if (values[i]) p.values[i].read_back(values[i], 0, p.values[i].size(), nullptr);
  return true;
}

bool DeviceFrame::resolve_albedo(uint64_t picture, float* out) {
  Parts& p = *parts_;
  if (picture == 0 || picture != p.drawn) return false;
  const On on(p.device);
  DeviceArray<float>& there = p.values[2];
  p.resolver.resolve_albedo(p.scene, p.culler, p.rasteriser, p.plane(there, out, 4), nullptr);
  there.read_back(out, 0, there.size(), nullptr);
  return true;
}

void DeviceFrame::draw_views(const Scene& scene, const Streamer::Hold& streamed,
                             const std::vector<View>& views, const CullOptions& culling,
                             const RasterOptions& drawing, float* out, CullStats& cull_stats,
                             RasterStats& raster_stats) {
  const On on(parts_->device);
  Parts& p = *parts_;
  p.update(scene, streamed);
  cuda::draw_views(p.scene, p.view_culler, p.view_rasteriser, views, culling, drawing, out, cull_stats,
                   raster_stats, nullptr);
  p.scene.hand_back_wishes(streamed, nullptr);
}

void DeviceFrame::forget() { parts_->history.forget(); }

}  // namespace nanite_cull::cuda
