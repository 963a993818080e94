// What hosts that know no CUDA call: a frame on a device beside the CPU's, whole: culled, drawn, resolved,
// lit, its planes taken without a copy, while the scene changes and older pictures are asked for.
#include "cusim_test.h"

#if !defined(__CUDACC__)  // there is one device
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
namespace dev {
inline void check(cudaError_t, const char*) {}
}  // namespace dev
#endif

#include <cull/cull.cu>
#include <raster/raster.cu>
#include <raster/two_pass.cu>
#include <resolve/device_frame.cu>
#include <resolve/resolve.cu>
#include <resolve/shade.cu>
#include <scene/device_pages.cu>
#include <scene/device_scene.cu>

#include "painted.h"
#include "resolve/albedo.h"
#include "resolve/resolve.h"
#include "sort.h"

namespace gpu = nanite_cull::cuda;
using namespace nanite_cull;
using namespace painted;

namespace {

struct Drawn {
  VisibleClusters visible;
  VisibilityBuffer buffer;
  CullStats stats;
  RasterStats raster;
  uint64_t picture = 0;
};

RasterOptions drawing() {
  RasterOptions out;
  out.threads = 1;
  return out;
}

template <class T>
std::vector<T> copied(const gpu::DevicePlane& plane, size_t count) {
  std::vector<T> out(count);
  dev::read_back(out.data(), plane.memory.get(), count * sizeof(T), nullptr);
  return out;
}

Drawn draw(gpu::DeviceFrame& device, const Scene& scene, const View& view, bool occlusion) {
  Drawn out;
  out.picture = device.draw(scene, Streamer::Hold(nullptr), view, options(), drawing(), occlusion, nullptr,
                            out.visible, out.stats, out.buffer, out.raster);
  return out;
}

// What the host draws, with the buffers that it keeps.
struct Host {
  CullContext context;
  VisibleClusters visible;
  Draws draws;
  VisibilityBuffer buffer;
  CullStats stats;
  RasterStats drawn;

  void draw(const Scene& scene, const View& view, const View* culled = nullptr) {
    context.init_context(culled ? *culled : view, options(), culled ? &view : nullptr);
    context.cull(scene, visible, stats, &draws, nullptr);
    raster(draws, view, visible, drawing(), buffer, drawn);
  }
};

}  // namespace

CUSIM_CASE(a_frame_and_its_planes_are_those_of_the_host) {
  scenes::Random random(device.config.seed);
  Scene scene;
  fill(scene, 8, random);
  gpu::DeviceFrame there;
  Host host;
  for (int frame = 0; frame < 3; ++frame) {
    const View view = look(random, 6, 47, 31);
    host.draw(scene, view);
    const Drawn got = draw(there, scene, view, frame == 1);
    const size_t pixels = host.buffer.id.size();
    CUSIM_REQUIRE(got.buffer.depth == host.buffer.depth);
    CUSIM_REQUIRE(frame == 1 || got.buffer.id == host.buffer.id);

    std::vector<float> normal(3 * pixels), albedo(4 * pixels), want_albedo(4 * pixels);
    std::vector<uint32_t> instance(pixels), material(pixels);
    ResolveTargets t;
    t.normal = normal.data(), t.instance = instance.data(), t.material = material.data();
    resolve(host.draws, view, host.visible, host.buffer, {}, t, 1);
    resolve_albedo(host.draws, view, host.visible, host.buffer, want_albedo.data(), 1);
    const auto plane = [&](gpu::Plane which) { return there.plane(got.picture, which); };
    CUSIM_REQUIRE(copied<float>(plane(gpu::Plane::depth), pixels) == host.buffer.depth);
    CUSIM_REQUIRE(copied<float>(plane(gpu::Plane::normal), 3 * pixels) == normal);
    CUSIM_REQUIRE(copied<uint32_t>(plane(gpu::Plane::instance), pixels) == instance);
    CUSIM_REQUIRE(copied<uint32_t>(plane(gpu::Plane::material), pixels) == material);
    const gpu::DevicePlane kept = plane(gpu::Plane::albedo);
    CUSIM_REQUIRE(there.resolve_albedo(got.picture, albedo.data()) && albedo == want_albedo);
    // it is the caller's: another one is made for another
    CUSIM_REQUIRE(kept.memory != plane(gpu::Plane::albedo).memory);
    CUSIM_REQUIRE(copied<float>(kept, 4 * pixels) == want_albedo);

    const Drawn later = draw(there, scene, look(random, 5, 47, 31), false);
    CUSIM_REQUIRE(!plane(gpu::Plane::normal).memory && !there.resolve(got.picture, t));
    CUSIM_REQUIRE(copied<float>(kept, 4 * pixels) == want_albedo);  // and stays
    CUSIM_REQUIRE(there.plane(later.picture, gpu::Plane::uv).memory != nullptr);
  }
  CUSIM_REQUIRE(!there.plane(0, gpu::Plane::depth).memory);
}

// Frozen culling: what one camera sees, in its detail, as another sees it, near and behind it.
CUSIM_CASE(what_one_view_culls_another_draws) {
  scenes::Random random(device.config.seed);
  Scene scene;
  fill(scene, 8, random);
  gpu::DeviceFrame there;
  Host host;
  for (const double distance : {7.0, 0.4, -3.0}) {  // the second crosses the near plane
    const View culled = look(random, 4, 30, 30), view = look(random, distance, 47, 31);
    host.draw(scene, view, &culled);
    Drawn got;
    got.picture = there.draw(scene, Streamer::Hold(nullptr), view, options(), drawing(), false, nullptr,
                             got.visible, got.stats, got.buffer, got.raster, &culled);
    CUSIM_REQUIRE(got.buffer.depth == host.buffer.depth && got.buffer.id == host.buffer.id);
    const size_t pixels = host.buffer.id.size();
    std::vector<float> normal(3 * pixels), velocity(2 * pixels, -7.0f), seen(3 * pixels);
    ResolveTargets t;
    t.normal = normal.data(), t.velocity = velocity.data();
    resolve(host.draws, view, host.visible, host.buffer, {}, t, 1);
    t.normal = seen.data();
    CUSIM_REQUIRE(there.resolve(got.picture, t) && seen == normal);
    CUSIM_REQUIRE(velocity == std::vector<float>(2 * pixels, 0.0f));
    const Drawn alone = draw(there, scene, view, false);
    CUSIM_REQUIRE(distance != 7.0 || alone.buffer.id != got.buffer.id);
  }
}

CUSIM_MAIN
