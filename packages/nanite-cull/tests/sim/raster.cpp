// Drawing kernels beside the CPU: the same picture, pixel by pixel; and the pyramid of its depths.
#include <cull/cull.cu>
#include <raster/raster.cu>
#include <raster/two_pass.cu>
#include <scene/device_pages.cu>
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
  uint64_t small = 0, large = 0;
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
  out.small = visible.small, out.large = visible.large;
  return out;
}

struct Drawer {
  gpu::DeviceScene scene;
  gpu::Culler culler;
  gpu::Rasteriser rasteriser;

  Picture draw(cusim::Device& device, const Scene& from, const View& view, const RasterOptions& drawing,
               Traversal traversal = Traversal::levels) {
    Picture out;
    scene.update(from, &device);
    culler.cull(scene, view, options(traversal), &device);
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

// Small, large and clipped triangles; from both sides; with the coarse levels of a texture and its fine ones.
CUSIM_CASE(holes_and_materials_of_two_sides_are_those_of_the_host) {
  scenes::Random random(device.config.seed);
  Scene scene, solid;
  scenes::Random same = random;
  scenes::fill(scene, 6, 1, random, true), scenes::fill(solid, 6, 1, same);
  const double through_the_near_plane[12] = {2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0};
  scene.add(scene.add_asset(scenes::leafy(*scenes::patch(4, 1, 5))), through_the_near_plane, 1, 1);
  solid.add(solid.add_asset(scenes::patch(4, 1, 5)), through_the_near_plane, 1, 1);
  Drawer drawer;
  uint64_t clipped = 0, holes = 0;
  for (const double distance : {0.4, -1.5, 6.0}) {
    const View view = look(random, distance, 0.3, 75, 53);
    RasterOptions fronts;
    fronts.cull_back = true;
    for (const RasterOptions& drawing : {RasterOptions(), fronts}) {
      const Picture want = on_host(scene, view, options(), drawing);
      const Picture got = drawer.draw(device, scene, view, drawing);
      require_equal(got, want);
      clipped += got.stats.clipped_triangles;
    }
    holes +=
        on_host(scene, view, options(), {}).buffer.depth != on_host(solid, view, options(), {}).buffer.depth;
  }
  CUSIM_REQUIRE(clipped > 0 && holes > 0);
}

// Several views in one call beside the host's: what they show and what it took.
struct Views {
  CullContext context;
  std::vector<History> histories;
  VisibleClusters visible;
  Draws draws;
  VisibilityBuffer buffer;
  Drawer drawer;
  gpu::DeviceViews on_device;
  CullStats stats;

  void draw(cusim::Device& device, const Scene& scene, const std::vector<View>& views, bool occlusion,
            Traversal traversal = Traversal::levels) {
    const size_t pixels = views.size() * views.front().width * views.front().height;
    std::vector<float> want(pixels), got(pixels);
    cusim::Buffer<float> depths(pixels);
    RasterStats drawn, device_drawn;
    RasterOptions drawing;
    drawing.threads = 1;
    CullStats s;
    histories.resize(occlusion ? views.size() : 0);
    std::vector<History*> each;
    for (History& history : histories) each.push_back(&history);
    context.init_context(views, options());
    draw_views(context, scene, views, drawing, each, visible, draws, buffer, want.data(), stats, drawn,
               nullptr);
    drawer.scene.update(scene, &device);
    on_device.draw(drawer.scene, drawer.culler, drawer.rasteriser, views, options(traversal), drawing,
                   occlusion, depths.data(), s, device_drawn, &device);
    CUSIM_REQUIRE(depths.host() == want);
    CUSIM_REQUIRE(s.instances == stats.instances && s.visible_instances == stats.visible_instances);
    CUSIM_REQUIRE(s.visible_small == stats.visible_small && s.visible_large == stats.visible_large);
    CUSIM_REQUIRE(s.triangles == stats.triangles && s.post_clusters == stats.post_clusters);
    CUSIM_REQUIRE(s.occluded_instances == stats.occluded_instances);
    CUSIM_REQUIRE(s.occluded_clusters == stats.occluded_clusters);
    CUSIM_REQUIRE(device_drawn.clusters == drawn.clusters);
  }
};

CUSIM_CASE(depths_of_several_views_are_those_of_the_host) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill(scene, 12, 1.5, random, true);
  std::vector<View> views;
  for (const double distance : {5.0, -4.0, 0.6}) views.push_back(look(random, distance, 0.1, 47, 33));
  for (const Traversal traversal : {Traversal::levels, Traversal::persistent}) {
    Views beside;
    beside.draw(device, scene, views, false, traversal);
    CUSIM_REQUIRE(beside.stats.visible_large > 0 && beside.stats.visible_small > 0);
    beside.on_device.most_pixels = 2 * 47 * 33;  // in two turns
    beside.draw(device, scene, views, false, traversal);
  }
  Views beside;
  beside.draw(device, Scene(), views, true);
}

// A wall before the others moves; views move, come, go and change places, so that each hides behind another's
// last frame. `most_pixels`: of views at once.
void views_hide(cusim::Device& device, Traversal traversal, int64_t most_pixels) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill(scene, 10, 1.5, random, true);
  const uint32_t wall = scene.add_asset(scenes::patch(4, 1, 0.3f));
  const double before[12] = {4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 1, 3},
               aside[12] = {4, 0, 0, 7, 0, 4, 0, 0, 0, 0, 1, 3};
  scene.add(wall, before, 1, 1);
  Views beside;
  beside.on_device.most_pixels = most_pixels;
  uint64_t hidden = 0, brought = 0;
  for (int frame = 0; frame < 4; ++frame) {
    std::vector<View> views;
    for (const double x : {0.0, 0.5, -8.0}) {
      const double eye[3] = {x + 0.1 * frame, 0.1, 9}, centre[3] = {0, 0, 0};
      views.push_back(scenes::perspective(eye, centre, 0.9, 0.1, 41, 33, 1));
    }
    if (frame == 1) views.pop_back();
    if (frame == 2) scene.update(10, aside, 1, 1);
    if (frame == 3) std::swap(views[0], views[2]), scene.add(wall, before, 1, 1);
    beside.draw(device, scene, views, true, traversal);
    hidden += beside.stats.occluded_instances + beside.stats.occluded_clusters;
    brought += beside.stats.post_clusters;
  }
  CUSIM_REQUIRE(hidden > 0 && brought > 0);
}

CUSIM_CASE(views_hide_behind_their_last_frames_as_on_the_host) {
  views_hide(device, Traversal::levels, 1 << 20);
}
CUSIM_CASE(views_in_two_persistent_passes_do_too) { views_hide(device, Traversal::persistent, 1 << 20); }

// Fragments of small, large, clipped and masked triangles, by both passes, with lists that grow.
CUSIM_CASE(overdraw_is_that_of_the_host) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill(scene, 8, 1, random, true);
  RasterOptions counting;
  counting.overdraw = true, counting.threads = 1;
  Drawer drawer;
  drawer.rasteriser.piece_room = drawer.rasteriser.triangle_room = 1;
  for (const double distance : {0.4, 5.0}) {
    const View view = look(random, distance, 0.3, 75, 53);
    const Picture want = on_host(scene, view, options(), counting);
    const Picture got = drawer.draw(device, scene, view, counting);
    require_equal(got, want);
    CUSIM_REQUIRE(got.buffer.overdraw == want.buffer.overdraw);
    CUSIM_REQUIRE(*std::max_element(want.buffer.overdraw.begin(), want.buffer.overdraw.end()) > 1);
  }
  CUSIM_REQUIRE(drawer.draw(device, scene, look(random, 3, 0.3, 9, 7), {}).buffer.overdraw.empty());
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

// Straight before the plane of scenes::fill_plane.
View before_the_plane(double x, double y, double distance, int width, int height) {
  const double eye[3] = {x, y, distance}, centre[3] = {x, y, 0};
  return scenes::perspective(eye, centre, 1.2, 0.1, width, height, 2);
}

// Of what lies at one depth the last in the order of sizes, instances, clusters and triangles is seen,
// whoever came first.
CUSIM_CASE(equal_depths_are_decided_by_instance_cluster_and_triangle) {
  scenes::Random random(device.config.seed);
  Scene scene;
  scenes::fill_plane(scene, 24, random);
  Drawer drawer;
  uint64_t small = 0, large = 0, clipped = 0;
  for (const double distance : {0.2, 1.5, 12.0}) {
    const View view = before_the_plane(random(-0.5, 0.5), random(-0.5, 0.5), distance, 45, 37);
    const Picture want = on_host(scene, view, options(Traversal::instances), {});
    const std::vector<float>& depth = want.buffer.depth;
    const float nearest = *std::max_element(depth.begin(), depth.end());
    for (const float z : depth) CUSIM_REQUIRE(z == 0 || z == nearest);
    require_equal(on_host(scene, view, brute_force(), {}), want);
    for (const Traversal traversal : {Traversal::levels, Traversal::persistent})
      require_equal(drawer.draw(device, scene, view, {}, traversal), want);
    small += want.small, large += want.large, clipped += want.stats.clipped_triangles;
  }
  CUSIM_REQUIRE(small > 0 && large > 0);
  CUSIM_REQUIRE(clipped > 0);
}

// A wall before the others, seen from before and behind it; it moves, and so do they. `ties`: the others lie
// at one depth, so what the post pass brings has the depth of what the main pass drew.
void two_passes(cusim::Device& device, Traversal traversal, bool ties = false, bool leaves = false) {
  scenes::Random random(device.config.seed);
  Scene scene;
  if (ties)
    scenes::fill_plane(scene, 10, random);
  else
    scenes::fill(scene, 10, 1.5, random, leaves);
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
  RasterOptions counting;
  counting.overdraw = true, counting.threads = 1;
  for (int frame = 0; frame < 6; ++frame) {
    const double eye[3] = {0.2 * frame, 0.1, frame == 4 ? -9.0 : 9.0}, centre[3] = {0, 0, 0};
    const View view = ties ? before_the_plane(0.2 * frame, 0.1, eye[2], 59 - frame, 43)
                           : scenes::perspective(eye, centre, 0.9, 0.1, 59 - frame, 43, 1);
    if (frame == 2) scene.update(10, aside, 1, 1);
    if (frame == 3) scene.update(10, before, 1, 1);
    if (frame == 5) scene.add(wall, aside, 1, 1);
    Picture want, got;
    context.init_context(view, options(Traversal::instances));
    draw_two_pass(context, scene, view, counting, history, visible, draws, want.buffer, stats, want.stats);
    copy.update(scene, &device);
    device_history.draw(copy, culler, rasteriser, {view}, true, culling, counting, got.stats, &device);
    culler.read_back(device_visible, device_stats, &device);
    rasteriser.read_back(got.buffer, &device);
    require_equal(got, want);
    CUSIM_REQUIRE(got.buffer.overdraw == want.buffer.overdraw);
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

CUSIM_CASE(two_passes_over_equal_depths_too) {
  two_passes(device, Traversal::levels, true);
  two_passes(device, Traversal::persistent, true);
}

CUSIM_CASE(two_passes_over_holes_too) { two_passes(device, Traversal::levels, false, true); }

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
    // two images, the second without anything
    words.resize(2 * words.size()), depth.resize(2 * depth.size());
    std::vector<float> texels = want.texels;
    texels.resize(2 * texels.size());
    cusim::Buffer<float> depths(depth), from_words(texels.size()), from_depths(texels.size());
    cusim::Buffer<gpu::Count> pixels(words);
    gpu::build_pyramids(pixels.data(), width, height, 2, from_words.data(), &device);
    gpu::build_pyramids(depths.data(), width, height, 2, from_depths.data(), &device);
    CUSIM_REQUIRE(from_words.host() == texels);
    CUSIM_REQUIRE(from_depths.host() == texels);
  }
}

CUSIM_MAIN
