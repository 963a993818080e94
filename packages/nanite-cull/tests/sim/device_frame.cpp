// What hosts that know no CUDA call: a frame on a device beside the CPU's, whole: culled, drawn, resolved,
// lit, its planes taken without a copy, while the scene changes and older pictures are asked for.
#include "cusim_test.h"
#include "one_device.h"

#include <cull/cull.cu>
#include <raster/raster.cu>
#include <raster/two_pass.cu>
#include <resolve/device_frame.cu>
#include <resolve/planes.cu>
#include <resolve/resolve.cu>
#include <resolve/shade.cu>
#include <scene/device_pages.cu>
#include <scene/device_scene.cu>

#include "lamps.h"
#include "painted.h"
#include "resolve/albedo.h"
#include "resolve/resolve.h"
#include "resolve/unproject.h"
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
  out.threads = 1, out.overdraw = true;
  return out;
}

template <class T>
std::vector<T> copied(const gpu::DeviceMemory& plane, size_t count) {
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

bool has_other_than(const std::vector<float>& plane, float value) {
  return std::any_of(plane.begin(), plane.end(), [=](float x) { return x != value; });
}

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
    CUSIM_REQUIRE(copied<uint32_t>(plane(gpu::Plane::overdraw), pixels) == got.buffer.overdraw);
    CUSIM_REQUIRE(frame == 1 || got.buffer.overdraw == host.buffer.overdraw);
    const std::vector<uint8_t> coverage = copied<uint8_t>(plane(gpu::Plane::coverage), pixels);
    const std::vector<uint64_t> words = copied<uint64_t>(plane(gpu::Plane::visibility), pixels);
    for (size_t i = 0; i < pixels; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &host.buffer.depth[i], 4);
      CUSIM_REQUIRE(coverage[i] == (host.buffer.depth[i] > 0));
      CUSIM_REQUIRE(words[i] == (uint64_t(bits) << 32 | got.buffer.id[i]));
    }
    const size_t clusters = got.visible.small + got.visible.large;
    const std::vector<uint32_t> listed = copied<uint32_t>(plane(gpu::Plane::clusters), 2 * clusters);
    for (size_t i = 0; i < clusters; ++i) {
      const Visible& v =
          i < got.visible.small ? got.visible.buffer[i] : got.visible.large_at(i - got.visible.small);
      CUSIM_REQUIRE(listed[2 * i] == v.instance && listed[2 * i + 1] == v.cluster);
    }
    CUSIM_REQUIRE(copied<float>(plane(gpu::Plane::normal), 3 * pixels) == normal);
    CUSIM_REQUIRE(copied<uint32_t>(plane(gpu::Plane::instance), pixels) == instance);
    CUSIM_REQUIRE(copied<uint32_t>(plane(gpu::Plane::material), pixels) == material);
    const gpu::DeviceMemory kept = plane(gpu::Plane::albedo);
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

CUSIM_CASE(distances_and_places_are_those_of_the_host) {
  scenes::Random random(device.config.seed);
  Scene scene;
  fill(scene, 8, random);
  gpu::DeviceFrame there;
  Host host;
  for (const double distance : {6.0, 0.4}) {
    const View view = look(random, distance, 47, 31);
    host.draw(scene, view);
    const Drawn got = draw(there, scene, view, false);
    const size_t pixels = host.buffer.id.size();
    for (const bool orthographic : {false, true}) {
      const lamps::ViewLens lens(view, orthographic);
      const gpu::FrameLens both{lens.lens, lens.exact};
      std::vector<float> places(3 * pixels);
      unproject(host.buffer, lens.exact, places.data(), 1);
      const std::vector<float> found = copied<float>(there.places(got.picture, both), 3 * pixels);
      CUSIM_REQUIRE(std::memcmp(found.data(), places.data(), 12 * pixels) == 0);  // no numbers too
      const std::vector<float> distances = copied<float>(there.distances(got.picture, both), pixels);
      for (size_t i = 0; i < pixels; ++i)
        CUSIM_REQUIRE(host.buffer.depth[i] > 0 ? distances[i] == distance_of(lens.lens, host.buffer.depth[i])
                                               : distances[i] == std::numeric_limits<float>::infinity());
    }
    const lamps::ViewLens lens(view, false);
    CUSIM_REQUIRE(!there.places(got.picture + 1, {lens.lens, lens.exact}).memory);
    CUSIM_REQUIRE(!there.distances(got.picture + 1, {lens.lens, lens.exact}).memory);
  }
}

// Maps drawn on the device, and read where they are: the light and the pictures of the host's.
CUSIM_CASE(shadow_maps_stay_where_they_are_read) {
  scenes::Random random(device.config.seed);
  Scene scene;
  fill(scene, 8, random);
  gpu::DeviceFrame there;
  Host host, maps_host;
  std::vector<History> histories(6);
  std::vector<History*> each;
  for (History& history : histories) each.push_back(&history);
  size_t dark = 0, arrived = 0;
  for (int frame = 0; frame < 2; ++frame) {
    const View view = look(random, 6 - frame, 47, 31);
    lamps::Lamps lamps(random);
    for (View& map : lamps.all.maps) map.threshold = 1;
    host.draw(scene, view);
    const Drawn got = draw(there, scene, view, false);
    CullStats stats;
    RasterStats drawn;
    const gpu::DeviceDepths maps = there.draw_views(scene, Streamer::Hold(nullptr), lamps.all.maps, options(),
                                                    drawing(), true, gpu::ViewsOf::lights, stats, drawn);
    CUSIM_REQUIRE(there.holds(got.picture));
    std::vector<float> want(maps.size()), read(maps.size());
    maps_host.context.init_context(lamps.all.maps, options());
    draw_views(maps_host.context, scene, lamps.all.maps, drawing(), each, maps_host.visible, maps_host.draws,
               maps_host.buffer, want.data(), maps_host.stats, maps_host.drawn, nullptr);
    maps.read_back(read.data());
    CUSIM_REQUIRE(read == want && has_other_than(want, 0));
    CUSIM_REQUIRE(stats.visible_small + stats.visible_large ==
                  maps_host.stats.visible_small + maps_host.stats.visible_large);

    const size_t pixels = host.buffer.id.size(), lights = lamps.all.lights.size();
    const lamps::ViewLens lens(view, false);
    const gpu::FrameLens both{lens.lens, lens.exact};
    lamps.all.depth = want.data();
    std::vector<float> share(lights * pixels), direct(pixels), got_share(share), got_direct(direct);
    find_light(host.draws, host.visible, host.buffer, lens.lens, view.eye, lamps.all,
               {share.data(), direct.data()}, 1);
    lamps.all.depth = nullptr;
    CUSIM_REQUIRE(
        there.find_light(got.picture, both, lamps.all, maps, {got_share.data(), got_direct.data()}));
    CUSIM_REQUIRE(got_share == share && got_direct == direct);
    CUSIM_REQUIRE(copied<float>(there.light(got.picture, both, lamps.all, maps), lights * pixels) == share);
    for (const float s : share) dark += s == 0, arrived += s == 1;

    Shading shading;
    const std::vector<float> background(3 * view.height, 0.5f), ramp(6, 0.25f);
    shading.base = Base::color, shading.relief = 0.5f, shading.ramp = ramp.data(), shading.ramp_size = 2;
    shading.background = background.data(), shading.direct = direct.data();
    std::vector<uint8_t> picture(3 * pixels), got_picture(picture);
    shade(host.draws, host.visible, host.buffer, lens.lens, shading, picture.data(), 1);
    shading.direct = nullptr;
    CUSIM_REQUIRE(there.shade(got.picture, both, &lamps.all, &maps, shading, got_picture.data()));
    CUSIM_REQUIRE(got_picture == picture);
    const auto shaded = [&](uint64_t number) {
      return there.shaded(number, both, &lamps.all, &maps, shading);
    };
    CUSIM_REQUIRE(copied<uint8_t>(shaded(got.picture), 3 * pixels) == picture);
    CUSIM_REQUIRE(!shaded(0).memory && !there.light(0, both, lamps.all, maps).memory);
  }
  CUSIM_REQUIRE(dark > 0 && arrived > 0);
}

// What nobody has any more serves the next plane of its size; what somebody has does not.
CUSIM_CASE(memory_of_planes_is_used_again) {
  scenes::Random random(device.config.seed);
  Scene scene;
  fill(scene, 4, random);
  auto there = std::make_unique<gpu::DeviceFrame>();
  const View view = look(random, 5, 33, 21);
  Drawn got = draw(*there, scene, view, false);
  const size_t pixels = got.buffer.id.size();
  gpu::DeviceMemory kept = there->plane(got.picture, gpu::Plane::normal);
  const std::vector<float> normals = copied<float>(kept, 3 * pixels);
  const void* const first = there->plane(got.picture, gpu::Plane::normal).memory.get();
  for (int i = 0; i < 3; ++i) {
    CUSIM_REQUIRE(there->plane(got.picture, gpu::Plane::normal).memory.get() == first);
    CUSIM_REQUIRE(there->plane(got.picture, gpu::Plane::coverage).memory.get() != first);  // too small for it
  }
  got = draw(*there, scene, view, false);
  CUSIM_REQUIRE(there->plane(got.picture, gpu::Plane::normal).memory.get() == first);
  CUSIM_REQUIRE(copied<float>(kept, 3 * pixels) == normals);
  there.reset();  // outlived by what it gave
  CUSIM_REQUIRE(copied<float>(kept, 3 * pixels) == normals);
}

CUSIM_MAIN
