// Culling kernels beside the CPU: the same clusters in the same slots.
#include <cull/cull.cu>
#include <scene/device_pages.cu>
#include <scene/device_scene.cu>

#include "cusim_test.h"
#include "scenes.h"
#include "sort.h"

namespace gpu = nanite_cull::cuda;
using namespace nanite_cull;

namespace {

constexpr uint64_t room = 4096;

CullOptions options(Traversal traversal = Traversal::levels) {
  CullOptions out;
  out.threads = 1, out.traversal = traversal;
  out.max_candidate_nodes = out.max_candidate_clusters = out.max_visible_clusters = room;
  return out;
}

std::vector<uint32_t> words(const VisibleClusters& v) {
  std::vector<uint32_t> out = {static_cast<uint32_t>(v.small), static_cast<uint32_t>(v.large)};
  for (uint64_t i = 0; i < v.small; ++i)
    out.push_back(v.buffer[i].instance), out.push_back(v.buffer[i].cluster);
  for (uint64_t i = 0; i < v.large; ++i)
    out.push_back(v.large_at(i).instance), out.push_back(v.large_at(i).cluster);
  return out;
}

struct Result {
  std::vector<uint32_t> clusters;
  CullStats stats;
};

Result on_host(const Scene& scene, const View& view, const CullOptions& o) {
  CullContext context;
  VisibleClusters visible;
  Result out;
  context.init_context(view, o);
  context.cull(scene, visible, out.stats, nullptr);
  out.clusters = words(visible);
  return out;
}

Result on_device(cusim::Device& device, const gpu::DeviceScene& scene, gpu::Culler& culler, const View& view,
                 const CullOptions& o) {
  VisibleClusters visible;
  Result out;
  culler.cull(scene, view, o, &device);
  const auto waits = device.statistics.host_waits;
  CUSIM_REQUIRE(waits == 0);
  culler.read_back(visible, out.stats, &device);
  device.statistics.host_waits = 0;
  out.clusters = words(visible);
  return out;
}

void require_equal(const Result& got, const Result& want) {
  CUSIM_REQUIRE(got.clusters == want.clusters);
  CUSIM_REQUIRE(got.stats.visible_instances == want.stats.visible_instances);
  CUSIM_REQUIRE(got.stats.triangles == want.stats.triangles);
  CUSIM_REQUIRE(got.stats.dropped_nodes + got.stats.dropped_candidate_clusters +
                    got.stats.dropped_visible_clusters ==
                0);
}

View look(scenes::Random& random, double spread, float threshold) {
  const double far = random(0, 1) < 0.3 ? 6 : 1;
  const double eye[3] = {random(-spread, spread) * far, random(-spread, spread) * far,
                         random(-spread, spread)},
               towards[3] = {random(-1, 1), random(-1, 1), random(-1, 1)};
  return scenes::perspective(eye, towards, random(0.3, 2), random(0.001, 0.5), 161, 97, threshold);
}

// Instances about the origin, on the host and on the device, and what culls them there.
struct Stage {
  scenes::Random random;
  Scene scene;
  gpu::DeviceScene copy;
  gpu::Culler culler;

  Stage(cusim::Device& device, int instances, double spread) : random(device.config.seed) {
    scenes::fill(scene, instances, spread, random);
    copy.update(scene, &device);
  }
};

}  // namespace

CUSIM_CASE(clusters_and_their_order_are_those_of_the_host) {
  Stage stage(device, 60, 5);
  auto& [random, scene, copy, culler] = stage;
  uint64_t found = 0;
  for (const float threshold : {0.2f, 2.0f, 20.0f}) {
    const View view = look(random, 5, threshold);
    const Result want = on_host(scene, view, options());
    CullOptions all = options(Traversal::instances);
    require_equal(on_host(scene, view, all), want);
    all.hierarchy = false;
    require_equal(on_host(scene, view, all), want);
    require_equal(on_device(device, copy, culler, view, options()), want);
    require_equal(on_device(device, copy, culler, view, options(Traversal::persistent)), want);
    found += want.clusters.size();
  }
  CUSIM_REQUIRE(found > 20);
}

CUSIM_CASE(launches_follow_the_depth_of_the_hierarchies_alone) {
  Stage stage(device, 20, 3);
  auto& [random, scene, copy, culler] = stage;
  for (int i = 0; i < 3; ++i) {
    device.statistics.operations = 0;
    culler.cull(copy, look(random, 3, 1), options(), &device);
    CUSIM_REQUIRE(device.statistics.operations == copy.depth() + 8u);  // six launches more, two fills
    device.wait();
  }
}

CUSIM_CASE(what_changes_is_brought_in_pieces) {
  Stage stage(device, 30, 3);
  auto& [random, scene, copy, culler] = stage;
  CUSIM_REQUIRE(copy.copied_bytes() == 30 * (sizeof(gpu::InstanceRecord) + sizeof(Sphere)));
  copy.update(scene, &device);
  CUSIM_REQUIRE(copy.copied_bytes() == 0);
  const double moved[12] = {1, 0, 0, 0.5, 0, 2, 0, 0.1, 0, 0, 1, -0.3};
  const View view = look(random, 3, 1);
  for (int step = 0; step < 4; ++step) {
    if (step == 0) scene.update(7, moved, 1, 1);
    if (step == 1) scene.hide(3, 2, true);
    if (step == 2) scene.remove(0, 9);
    if (step == 3) scene.add(scene.add_asset(scenes::patch(2, 1, 4)), moved, 1, 1);
    copy.update(scene, &device);
    CUSIM_REQUIRE(copy.copied_bytes() > 0);
    require_equal(on_device(device, copy, culler, view, options()), on_host(scene, view, options()));
  }
}

CUSIM_CASE(an_empty_scene_and_an_empty_view_show_nothing) {
  Scene scene;
  gpu::DeviceScene copy;
  gpu::Culler culler;
  scenes::Random random(device.config.seed);
  const double eye[3] = {0, 0, 100}, away[3] = {0, 0, 200};
  const View view = scenes::perspective(eye, away, 1, 0.1, 33, 17, 1);
  for (int step = 0; step < 2; ++step) {
    copy.update(scene, &device);
    const Result got = on_device(device, copy, culler, view, options());
    CUSIM_REQUIRE((got.clusters == std::vector<uint32_t>{0, 0}));
    scenes::fill(scene, 20, 3, random);
  }
}

CUSIM_CASE(without_a_frustum_all_instances_are_seen) {
  Stage stage(device, 20, 3);
  auto& [random, scene, copy, culler] = stage;
  CullOptions all = options();
  all.frustum = false;
  const View view = look(random, 3, 3);
  require_equal(on_device(device, copy, culler, view, all), on_host(scene, view, all));
}

CUSIM_CASE(an_orthographic_view_is_the_same) {
  Stage stage(device, 20, 3);
  auto& [random, scene, copy, culler] = stage;
  View view;
  const double m[16] = {0.25, 0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0.1, 0.5, 0, 0, 0, 1};
  std::copy_n(m, 16, view.relative_to_clip);
  std::fill_n(view.eye, 3, 0.0);
  view.orthographic = true, view.width = 64, view.height = 48, view.pixels_per_unit = 8;
  require_equal(on_device(device, copy, culler, view, options()), on_host(scene, view, options()));
}

CUSIM_CASE(what_does_not_fit_is_counted) {
  Stage stage(device, 30, 3);
  auto& [random, scene, copy, culler] = stage;
  const double eye[3] = {0, 0, 9}, centre[3] = {0, 0, 0};
  const View view = scenes::perspective(eye, centre, 1.2, 0.1, 161, 97, 0.5f);
  const Result whole = on_host(scene, view, options());
  const uint64_t all = whole.stats.visible_small + whole.stats.visible_large;
  for (const uint64_t few : {1, 2, 7, 33})
    for (int k = 0; k < 6; ++k) {
      const int which = k / 2;
      CullOptions o = options(k % 2 ? Traversal::persistent : Traversal::levels);
      (which == 0   ? o.max_candidate_nodes
       : which == 1 ? o.max_candidate_clusters
                    : o.max_visible_clusters) = few;
      const Result got = on_device(device, copy, culler, view, o);
      const CullStats& s = got.stats;
      const uint64_t kept = s.visible_small + s.visible_large;
      const uint64_t dropped[3] = {s.dropped_nodes, s.dropped_candidate_clusters, s.dropped_visible_clusters};
      CUSIM_REQUIRE(dropped[which] > 0 || got.clusters == whole.clusters);
      CUSIM_REQUIRE(kept <= all);
      if (few <= 2) CUSIM_REQUIRE(kept < all);  // of more, what was dropped may lead to nothing in view
      CUSIM_REQUIRE(few > 2 || dropped[which] > 0);
      if (which == 2) CUSIM_REQUIRE(kept == std::min(few, all) && kept + dropped[2] == all);
      if (which != 2) CUSIM_REQUIRE(s.dropped_visible_clusters == 0);
    }
}

CUSIM_MAIN
