#include "resolve/device_frame.h"

#include <vector>

#include "raster/device_two_pass.h"
#include "resolve/device_resolve.h"
#include "resolve/device_shade.h"

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
  Shader shader;
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
  DeviceArray<float> values[4], share, direct;
  DeviceArray<uint8_t> shaded;
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
                           VisibilityBuffer& out, RasterStats& raster_stats, const View* culled) {
  const On on(parts_->device);
  Parts& p = *parts_;
  p.drawn = 0;  // until all is there
  p.update(scene, streamed);
  if (occlusion) {
    p.history.draw(p.scene, p.culler, p.rasteriser, view, culling, drawing, raster_stats, nullptr);
  } else {
    p.culler.cull(p.scene, culled ? *culled : view, culling, nullptr);
    if (culled) p.resolver.draw_from(p.scene, p.culler, view, nullptr);
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

DevicePlane DeviceFrame::plane(uint64_t picture, Plane which) {
  Parts& p = *parts_;
  if (picture == 0 || picture != p.drawn) return {};
  const On on(p.device);
  const auto memory = std::make_shared<DeviceArray<float>>();
  memory->resize(plane_width(which) * p.rasteriser.pixels().size());
  float* const values = memory->data();
  auto* const ids = reinterpret_cast<uint32_t*>(values);
  ResolveTargets t;
  switch (which) {
    case Plane::depth: p.rasteriser.copy_depths(values, nullptr); break;
    case Plane::albedo: p.resolver.resolve_albedo(p.scene, p.culler, p.rasteriser, values, nullptr); break;
    case Plane::instance: t.instance = ids; break;
    case Plane::cluster: t.cluster = ids; break;
    case Plane::triangle: t.triangle = ids; break;
    case Plane::level: t.level = ids; break;
    case Plane::material: t.material = ids; break;
    case Plane::normal: t.normal = values; break;
    case Plane::uv: t.uv = values; break;
    case Plane::color: t.color = values; break;
    case Plane::velocity: t.velocity = values; break;
  }
  if (which != Plane::depth && which != Plane::albedo)
    p.resolver.resolve(p.scene, p.culler, p.rasteriser, t, nullptr);
  dev::wait(nullptr);
  return {std::shared_ptr<void>(memory, values), p.device};
}

bool DeviceFrame::find_light(uint64_t picture, const Lens& lens, const double* eye, const Lights& lights,
                             const LightTargets& targets) {
  Parts& p = *parts_;
  if (picture == 0 || picture != p.drawn) return false;
  const On on(p.device);
  const LightTargets there{p.plane(p.share, targets.share, lights.lights.size()),
                           p.plane(p.direct, targets.direct, 1)};
  p.shader.find_light(p.scene, p.culler, p.rasteriser, lens, eye, lights, there, nullptr);
  if (targets.share) p.share.read_back(targets.share, 0, p.share.size(), nullptr);
  if (targets.direct) p.direct.read_back(targets.direct, 0, p.direct.size(), nullptr);
  dev::wait(nullptr);  // the host's lens and maps end here
  return true;
}

bool DeviceFrame::shade(uint64_t picture, const Lens& lens, const double* eye, const Lights* lights,
                        const Shading& shading, uint8_t* out) {
  Parts& p = *parts_;
  if (picture == 0 || picture != p.drawn) return false;
  const On on(p.device);
  Shading there = shading;
  there.direct = nullptr;
  if (lights) {
    p.direct.resize(p.rasteriser.pixels().size());
    p.shader.find_light(p.scene, p.culler, p.rasteriser, lens, eye, *lights, {nullptr, p.direct.data()},
                        nullptr);
    there.direct = p.direct.data();
  }
  p.shader.shade(p.scene, p.culler, p.rasteriser, lens, there, p.plane(p.shaded, out, 3), nullptr);
  p.shaded.read_back(out, 0, p.shaded.size(), nullptr);
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
