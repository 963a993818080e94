#include "resolve/device_frame.h"

#include <algorithm>
#include <vector>

#include "raster/device_two_pass.h"
#include "resolve/device_planes.h"
#include "resolve/device_resolve.h"
#include "resolve/device_shade.h"
#include "scene/device_pool.h"

namespace nanite_cull::cuda {

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

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();  // said here: no later call takes it for its own
  return 0;
}

void DeviceDepths::read_back(float* out) const {
  const On on(device);
  dev::read_back(out, memory.get(), size() * sizeof(float), nullptr);
}

struct DeviceFrame::Parts {
  int device = 0;
  DeviceScene scene;
  Culler culler;
  Rasteriser rasteriser;
  DeviceHistory history;
  Resolver resolver;
  Shader shader;
  Unprojector unprojector;
  DevicePool pool;  // of what callers get
  // of views whose depths alone are asked for: a picture stays
  Culler view_culler;
  Rasteriser view_rasteriser;
  DeviceViews views, shadows;
  uint64_t pictures = 0;  // how many were drawn
  size_t clusters = 0;    // of the last one
  uint64_t drawn = 0;     // the number of the one that is there, with its scene; 0: none

  void update(const Scene& from, const Streamer::Hold& streamed) {
    scene.update(from, nullptr, streamed);
    if (scene.changed_by_last_update()) drawn = 0;
  }

  size_t pixels() const { return rasteriser.pixels().size(); }
  bool holds(uint64_t picture) const { return picture != 0 && picture == drawn; }
  DeviceMemory take(size_t bytes) { return {pool.take(bytes), device}; }

  // Room for a plane of `width` numbers a pixel where the host wants one.
  template <class T>
  T* plane(DeviceArray<T>& memory, const T* host, size_t width) {
    if (host == nullptr) return nullptr;
    memory.resize(width * pixels());
    return memory.data();
  }

  void find_direct(const FrameLens& lens, const Lights& lights, const DeviceDepths& maps) {
    direct.resize(pixels());
    shader.find_light(scene, culler, rasteriser, lens.lens, lens.exact.eye, lights, depths_of(maps),
                      {nullptr, direct.data()}, nullptr);
  }
  // Into device memory.
  void shade(const FrameLens& lens, const Lights* lights, const DeviceDepths* maps, const Shading& how,
             uint8_t* out) {
    Shading there = how;
    there.direct = nullptr;
    if (lights && maps) {
      find_direct(lens, *lights, *maps);
      there.direct = direct.data();
    }
    shader.shade(scene, culler, rasteriser, lens.lens, there, out, nullptr);
  }
  static const float* depths_of(const DeviceDepths& maps) {
    return static_cast<const float*>(maps.memory.get());
  }

  DeviceArray<uint32_t> ids[5];
  DeviceArray<float> values[4], share, direct;
  DeviceArray<uint8_t> bytes;
};

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
    p.history.draw(p.scene, p.culler, p.rasteriser, {view}, true, culling, drawing, raster_stats, nullptr);
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
  p.clusters = visible.small + visible.large;
  p.rasteriser.read_back(out, nullptr);
  p.scene.hand_back_wishes(streamed, nullptr);
  return p.drawn = ++p.pictures;
}

bool DeviceFrame::resolve(uint64_t picture, const ResolveTargets& t) {
  Parts& p = *parts_;
  if (!p.holds(picture)) return false;
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
  if (!p.holds(picture)) return false;
  const On on(p.device);
  DeviceArray<float>& there = p.values[2];
  p.resolver.resolve_albedo(p.scene, p.culler, p.rasteriser, p.plane(there, out, 4), nullptr);
  there.read_back(out, 0, there.size(), nullptr);
  return true;
}

bool DeviceFrame::find_light(uint64_t picture, const FrameLens& lens, const Lights& lights,
                             const DeviceDepths& maps, const LightTargets& targets) {
  Parts& p = *parts_;
  if (!p.holds(picture)) return false;
  const On on(p.device);
  const LightTargets there{p.plane(p.share, targets.share, lights.lights.size()),
                           p.plane(p.direct, targets.direct, 1)};
  p.shader.find_light(p.scene, p.culler, p.rasteriser, lens.lens, lens.exact.eye, lights, p.depths_of(maps),
                      there, nullptr);
  if (targets.share) p.share.read_back(targets.share, 0, p.share.size(), nullptr);
  if (targets.direct) p.direct.read_back(targets.direct, 0, p.direct.size(), nullptr);
  dev::wait(nullptr);  // the host's lens ends here
  return true;
}

bool DeviceFrame::shade(uint64_t picture, const FrameLens& lens, const Lights* lights,
                        const DeviceDepths* maps, const Shading& shading, uint8_t* out) {
  Parts& p = *parts_;
  if (!p.holds(picture)) return false;
  const On on(p.device);
  p.shade(lens, lights, maps, shading, p.plane(p.bytes, out, 3));
  p.bytes.read_back(out, 0, p.bytes.size(), nullptr);
  return true;
}

namespace {

// Bytes of a plane.
size_t bytes_of(Plane which, size_t pixels, size_t clusters) {
  switch (which) {
    case Plane::coverage: return pixels;
    case Plane::visibility: return sizeof(Count) * pixels;
    case Plane::clusters: return 2 * sizeof(uint32_t) * std::max<size_t>(clusters, 1);
    case Plane::normal: return 3 * sizeof(float) * pixels;
    case Plane::uv:
    case Plane::velocity: return 2 * sizeof(float) * pixels;
    case Plane::color:
    case Plane::albedo: return 4 * sizeof(float) * pixels;
    default: return sizeof(uint32_t) * pixels;
  }
}

// What resolve() writes to for a plane; nothing where another makes it.
ResolveTargets target_of(Plane which, void* memory) {
  ResolveTargets t;
  auto* const ids = static_cast<uint32_t*>(memory);
  auto* const values = static_cast<float*>(memory);
  switch (which) {
    case Plane::instance: t.instance = ids; break;
    case Plane::cluster: t.cluster = ids; break;
    case Plane::triangle: t.triangle = ids; break;
    case Plane::level: t.level = ids; break;
    case Plane::material: t.material = ids; break;
    case Plane::normal: t.normal = values; break;
    case Plane::uv: t.uv = values; break;
    case Plane::color: t.color = values; break;
    case Plane::velocity: t.velocity = values; break;
    default: break;
  }
  return t;
}

}  // namespace

bool DeviceFrame::holds(uint64_t picture) const { return parts_->holds(picture); }

DeviceMemory DeviceFrame::plane(uint64_t picture, Plane which) {
  Parts& p = *parts_;
  if (!p.holds(picture) || (which == Plane::overdraw && !p.rasteriser.overdraw())) return {};
  const On on(p.device);
  const DeviceMemory out = p.take(bytes_of(which, p.pixels(), p.clusters));
  void* const to = out.memory.get();
  const auto copy = [&](const void* from) {
    dev::copy_on_device(to, from, bytes_of(which, p.pixels(), p.clusters), nullptr);
  };
  switch (which) {
    case Plane::depth: p.rasteriser.copy_depths(static_cast<float*>(to), nullptr); break;
    case Plane::coverage: find_coverage(p.rasteriser, static_cast<uint8_t*>(to), nullptr); break;
    case Plane::visibility: copy(p.rasteriser.pixels().data()); break;
    case Plane::overdraw: copy(p.rasteriser.overdraw()); break;
    case Plane::clusters: list_clusters(p.culler, static_cast<uint32_t*>(to), nullptr); break;
    case Plane::albedo:
      p.resolver.resolve_albedo(p.scene, p.culler, p.rasteriser, static_cast<float*>(to), nullptr);
      break;
    default: p.resolver.resolve(p.scene, p.culler, p.rasteriser, target_of(which, to), nullptr);
  }
  dev::wait(nullptr);
  return out;
}

DeviceMemory DeviceFrame::distances(uint64_t picture, const FrameLens& lens) {
  Parts& p = *parts_;
  if (!p.holds(picture)) return {};
  const On on(p.device);
  const DeviceMemory out = p.take(sizeof(float) * p.pixels());
  find_distances(p.rasteriser, lens.lens, static_cast<float*>(out.memory.get()), nullptr);
  dev::wait(nullptr);
  return out;
}

DeviceMemory DeviceFrame::places(uint64_t picture, const FrameLens& lens) {
  Parts& p = *parts_;
  if (!p.holds(picture)) return {};
  const On on(p.device);
  const DeviceMemory out = p.take(3 * sizeof(float) * p.pixels());
  p.unprojector.find_places(p.rasteriser, lens.exact, static_cast<float*>(out.memory.get()), nullptr);
  dev::wait(nullptr);
  return out;
}

DeviceMemory DeviceFrame::light(uint64_t picture, const FrameLens& lens, const Lights& lights,
                                const DeviceDepths& maps) {
  Parts& p = *parts_;
  if (!p.holds(picture)) return {};
  const On on(p.device);
  const DeviceMemory out = p.take(std::max<size_t>(lights.lights.size(), 1) * sizeof(float) * p.pixels());
  p.shader.find_light(p.scene, p.culler, p.rasteriser, lens.lens, lens.exact.eye, lights, p.depths_of(maps),
                      {static_cast<float*>(out.memory.get()), nullptr}, nullptr);
  dev::wait(nullptr);
  return out;
}

DeviceMemory DeviceFrame::shaded(uint64_t picture, const FrameLens& lens, const Lights* lights,
                                 const DeviceDepths* maps, const Shading& shading) {
  Parts& p = *parts_;
  if (!p.holds(picture)) return {};
  const On on(p.device);
  const DeviceMemory out = p.take(3 * p.pixels());
  p.shade(lens, lights, maps, shading, static_cast<uint8_t*>(out.memory.get()));
  dev::wait(nullptr);
  return out;
}

DeviceDepths DeviceFrame::draw_views(const Scene& scene, const Streamer::Hold& streamed,
                                     const std::vector<View>& views, const CullOptions& culling,
                                     const RasterOptions& drawing, bool occlusion, ViewsOf of,
                                     CullStats& cull_stats, RasterStats& raster_stats) {
  const On on(parts_->device);
  Parts& p = *parts_;
  p.update(scene, streamed);
  DeviceDepths out;
  out.views = views.size(), out.width = views.front().width, out.height = views.front().height;
  static_cast<DeviceMemory&>(out) = p.take(sizeof(float) * out.size());
  (of == ViewsOf::cameras ? p.views : p.shadows)
      .draw(p.scene, p.view_culler, p.view_rasteriser, views, culling, drawing, occlusion,
            static_cast<float*>(out.memory.get()), cull_stats, raster_stats, nullptr);
  p.scene.hand_back_wishes(streamed, nullptr);
  dev::wait(nullptr);
  return out;
}

void DeviceFrame::forget() {
  parts_->history.forget();
  parts_->views.forget(), parts_->shadows.forget();
}

}  // namespace nanite_cull::cuda
