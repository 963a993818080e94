// Drawing kernels beside the CPU: the same picture, pixel by pixel; and the pyramid of its depths.
#include <cull/cull.cu>
#include <raster/raster.cu>
#include <raster/two_pass.cu>
#include <scene/device_scene.cu>

#include "cusim_test.h"
#include "raster/depth_pyramid.h"
#include "raster/two_pass.h"
#include "scenes.h"
#include "sort.h"

namespace gpu = nanite_cull::cuda;
using namespace nanite_cull;

namespace {

CullOptions options(Traversal traversal = Traversal::levels) {
  CullOptions out;
  out.threads = 1, out.traversal = traversal;
  out.max_candidate_nodes = out.max_candidate_clusters = out.max_visible_clusters = 2048;
  return out;
}

CullOptions brute_force() {
  CullOptions out = options(Traversal::instances);
  out.hierarchy = false;
  return out;
}

struct Picture {
  VisibilityBuffer buffer;
  RasterStats stats;
  uint64_t large = 0;
};

// In one thread: the thread sanitizer does not see how OpenMP's wait for each other.
Picture on_host(const Scene& scene, const View& view, const CullOptions& o, RasterOptions drawing) {
  drawing.threads = 1;
  CullContext context;
  VisibleClusters visible;
  CullStats stats;
  Draws draws;
  Picture out;
  context.init_context(view, o);
  context.cull(scene, visible, stats, &draws);
  raster(draws, view, visible, drawing, out.buffer, out.stats);
  out.large = visible.large;
  return out;
}

struct Drawer {
  gpu::DeviceScene scene;
  gpu::Culler culler;
  gpu::Rasteriser rasteriser;

  Picture draw(cusim::Device& device, const Scene& from, const View& view, const RasterOptions& drawing) {
    Picture out;
    scene.update(from, &device);
    culler.cull(scene, view, options(), &device);
    rasteriser.draw(scene, culler, view, drawing, out.stats, &device);
    rasteriser.read_back(out.buffer, &device);
    return out;
  }
};

void require_equal(const Picture& got, const Picture& want) {
  CUSIM_REQUIRE(got.buffer.depth == want.buffer.depth);
  CUSIM_REQUIRE(got.buffer.id == want.buffer.id);
}

// `width` and `height` are odd in most cases; near: some instances cross the near plane.
View look(scenes::Random& random, double distance, double near_distance, int width, int height) {
  const double eye[3] = {random(-1, 1), random(-1, 1), distance}, centre[3] = {0, 0, 0};
  return scenes::perspective(eye, centre, 1.2, near_distance, width, height, 1);
}

}  // namespace

CUSIM_CASE(the_picture_is_that_of_the_host) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill(scene, 12, 2, random);
  Drawer drawer;
  const View view = look(random, 7, 0.1, 75, 53);
  const Picture want = on_host(scene, view, options(), {});
  require_equal(on_host(scene, view, brute_force(), {}), want);
  require_equal(drawer.draw(device, scene, view, {}), want);
  RasterOptions fronts;
  fronts.cull_back = true;
  const View below = look(random, -7, 0.1, 75, 53);
  const Picture faces = on_host(scene, below, options(), fronts);
  require_equal(drawer.draw(device, scene, below, fronts), faces);
  CUSIM_REQUIRE(faces.buffer.depth != on_host(scene, below, options(), {}).buffer.depth);
}

CUSIM_CASE(large_triangles_and_clipped_ones_are_too) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill(scene, 5, 1, random);
  Drawer drawer;
  const View view = look(random, 0.4, 0.3, 133, 67);
  const Picture want = on_host(scene, view, options(), {});
  const Picture got = drawer.draw(device, scene, view, {});
  require_equal(got, want);
  CUSIM_REQUIRE(want.large > 0 && got.stats.clipped_triangles > 0);
}

CUSIM_CASE(lists_of_large_triangles_grow) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill(scene, 3, 1, random);
  Drawer drawer;
  drawer.rasteriser.piece_room = drawer.rasteriser.triangle_room = 1;
  const auto from = [&](double distance) {
    scenes::Random again = random;
    return look(again, distance, 0.2, 133, 67);
  };
  const View view = from(0.5);
  require_equal(drawer.draw(device, scene, view, {}), on_host(scene, view, options(), {}));
  CUSIM_REQUIRE(drawer.rasteriser.piece_room > 1 && drawer.rasteriser.triangle_room > 1);
  // a camera that moves a little finds room enough
  const uint64_t room = drawer.rasteriser.piece_room;
  for (const double distance : {0.49, 0.51}) drawer.draw(device, scene, from(distance), {});
  CUSIM_REQUIRE(drawer.rasteriser.piece_room == room);
}

// Two instances in one place: at every pixel the depths are equal, and the later instance is seen.
CUSIM_CASE(equal_depths_are_decided_by_instance_and_cluster) {
  Scene scene;
  const uint32_t asset = scene.add_asset(scenes::patch(4, 1, 3));
  const double place[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
  for (int i = 0; i < 3; ++i) scene.add(asset, place, 1, 1);
  scenes::Random random(7);
  Drawer drawer;
  const View view = look(random, 3, 0.1, 45, 41);
  const Picture want = on_host(scene, view, options(), {}), got = drawer.draw(device, scene, view, {});
  require_equal(got, want);
  CUSIM_REQUIRE_SAME(got.buffer.id);
}

// A wall before the others, seen from before and behind it; it moves, and so do they.
void two_passes(cusim::Device& device, Traversal traversal) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill(scene, 10, 1.5, random);
  const uint32_t wall = scene.add_asset(scenes::patch(4, 1, 0.3f));
  const double before[12] = {4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 1, 3},
               aside[12] = {4, 0, 0, 7, 0, 4, 0, 0, 0, 0, 1, 3};
  scene.add(wall, before, 1, 1);
  const CullOptions culling = options(traversal);
  gpu::DeviceScene copy;
  gpu::Culler culler;
  gpu::Rasteriser rasteriser;
  gpu::DeviceHistory device_history;
  History history;
  CullContext context;
  VisibleClusters visible, device_visible;
  Draws draws;
  CullStats stats, device_stats;
  uint64_t hidden = 0, brought = 0;
  for (int frame = 0; frame < 6; ++frame) {
    const double eye[3] = {0.2 * frame, 0.1, frame == 4 ? -9.0 : 9.0}, centre[3] = {0, 0, 0};
    const View view = scenes::perspective(eye, centre, 0.9, 0.1, 59 - frame, 43, 1);
    if (frame == 2) scene.update(10, aside, 1, 1);
    if (frame == 3) scene.update(10, before, 1, 1);
    if (frame == 5) scene.add(wall, aside, 1, 1);
    Picture want, got;
    context.init_context(view, options(Traversal::instances));
    draw_two_pass(context, scene, view, {}, history, visible, draws, want.buffer, stats, want.stats);
    copy.update(scene, &device);
    device_history.draw(copy, culler, rasteriser, view, culling, {}, got.stats, &device);
    culler.read_back(device_visible, device_stats, &device);
    rasteriser.read_back(got.buffer, &device);
    require_equal(got, want);
    CUSIM_REQUIRE(got.buffer.depth == on_host(scene, view, options(), {}).buffer.depth);
    CUSIM_REQUIRE(device_visible.small == visible.small && device_visible.large == visible.large);
    CUSIM_REQUIRE(device_stats.post_clusters == stats.post_clusters);
    hidden += device_stats.occluded_instances + device_stats.occluded_nodes + device_stats.occluded_clusters;
    brought += device_stats.post_clusters;
  }
  CUSIM_REQUIRE(hidden > 0 && brought > 0);
}

CUSIM_CASE(two_passes_draw_what_those_of_the_host_draw) { two_passes(device, Traversal::levels); }
CUSIM_CASE(two_persistent_passes_do_too) { two_passes(device, Traversal::persistent); }

CUSIM_CASE(an_empty_view_is_empty) {
  Scene scene;
  Drawer drawer;
  scenes::Random random(1);
  const View view = look(random, 3, 0.1, 9, 1);
  const Picture got = drawer.draw(device, scene, view, {});
  CUSIM_REQUIRE(got.buffer.depth == std::vector<float>(9, 0.0f));
  CUSIM_REQUIRE(got.buffer.id == std::vector<uint32_t>(9, 0u));
}

CUSIM_CASE(the_pyramid_is_that_of_the_host) {
  std::mt19937 random(static_cast<unsigned>(device.config.seed));
  const int sizes[][2] = {{1, 1}, {2, 1}, {37, 21}, {64, 33}, {1, 19}};
  for (const auto& [width, height] : sizes) {
    std::vector<float> depth(static_cast<size_t>(width) * height);
    std::vector<gpu::Count> words;
    for (float& z : depth) {
      z = random() % 3 ? std::uniform_real_distribution<float>(0, 1)(random) : 0;
      uint32_t bits;
      std::memcpy(&bits, &z, 4);
      words.push_back(gpu::Count(bits) << 32 | random());
    }
    DepthPyramid want;
    want.build(depth.data(), width, height, 1);
    cusim::Buffer<float> depths(depth), from_words(want.texels.size()), from_depths(want.texels.size());
    cusim::Buffer<gpu::Count> pixels(words);
    gpu::build_pyramid(pixels.data(), width, height, from_words.data(), &device);
    gpu::build_pyramid(depths.data(), width, height, from_depths.data(), &device);
    CUSIM_REQUIRE(from_words.host() == want.texels);
    CUSIM_REQUIRE(from_depths.host() == want.texels);
  }
}

CUSIM_MAIN
