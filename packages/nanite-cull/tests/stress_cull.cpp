// Whole persistent culls and two-pass frames on several threads, at ample and at tiny capacities: run under
// the thread sanitizer by test_traversal.py. What is found must be what one thread finds instance by
// instance.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <tuple>

#include "raster/two_pass.h"
#include "scenes.h"

using namespace nanite_cull;

namespace {

int failures = 0;
uint64_t hidden = 0, brought = 0, dropped = 0;  // by all runs: what was left out, and came after all

void expect(bool holds, const char* what, int seed) {
  if (!holds && failures++ < 5) std::printf("failed: %s, seed %d\n", what, seed);
}

CullOptions options(Traversal traversal, int threads, uint64_t room) {
  CullOptions out;
  out.traversal = traversal, out.threads = threads;
  out.max_candidate_nodes = out.max_candidate_clusters = room, out.max_visible_clusters = 8192;
  return out;
}

using Key = std::tuple<uint32_t, uint32_t, uint32_t, bool>;  // in the order of a list

// Small clusters or large ones.
std::vector<Key> found(const VisibleClusters& v, bool large) {
  std::vector<Key> out;
  for (uint64_t i = 0; i < (large ? v.large : v.small); ++i) {
    const Visible& c = large ? v.large_at(i) : v.buffer[i];
    out.emplace_back(c.view, c.instance, c.cluster, large);
  }
  return out;
}

bool equal(const VisibleClusters& a, const VisibleClusters& b) {
  return found(a, false) == found(b, false) && found(a, true) == found(b, true);
}

// Each cluster once, in order, and none that `all` does not have.
bool is_part(const VisibleClusters& some, const VisibleClusters& all) {
  for (const bool large : {false, true}) {
    const std::vector<Key> a = found(some, large), b = found(all, large);
    if (std::adjacent_find(a.begin(), a.end(), std::greater_equal<Key>()) != a.end()) return false;
    if (!std::includes(b.begin(), b.end(), a.begin(), a.end())) return false;
  }
  return true;
}

View look(scenes::Random& random, double distance) {
  const double eye[3] = {random(-3, 3), random(-3, 3), distance},
               towards[3] = {random(-1, 1), random(-1, 1), 0};
  return scenes::perspective(eye, towards, 1.2, 0.1, 97, 61, 1);
}

struct Culled {
  CullContext context;
  VisibleClusters visible;
  CullStats stats;

  void run(const Scene& scene, const View& view, const CullOptions& o) {
    context.init_context(view, o);
    context.cull(scene, visible, stats, nullptr);
  }
};

void cull(int seed) {
  scenes::Random random(static_cast<uint64_t>(seed));
  Scene scene;
  scenes::fill(scene, 40, 5, random);
  Culled one, many;  // contexts serve for several frames: queues are cleared between them
  for (int frame = 0; frame < 3; ++frame) {
    const View view = look(random, 6);
    one.run(scene, view, options(Traversal::instances, 1, 4096));
    many.run(scene, view, options(Traversal::persistent, 2 + seed % 5, 4096));
    expect(equal(one.visible, many.visible), "the clusters differ", seed);
    expect(one.stats.triangles == many.stats.triangles, "the triangles differ", seed);
    many.run(scene, view, options(Traversal::persistent, 4, 1 + seed % 7));
    const uint64_t lost = many.stats.dropped_nodes + many.stats.dropped_candidate_clusters;
    expect(lost > 0 || equal(one.visible, many.visible), "what does not fit is not counted", seed);
    expect(is_part(many.visible, one.visible), "what fits is out of order or nowhere else", seed);
    dropped += lost;
  }
}

// Frames of a walk: each is the one without occlusion.
void draw(int seed) {
  scenes::Random random(static_cast<uint64_t>(seed));
  Scene scene;
  scenes::fill(scene, 25, 1.5, random, true);
  Culled plain, walked;
  History history;
  Draws draws[2];
  VisibilityBuffer pictures[2];
  RasterStats stats;
  RasterOptions drawing[2];
  drawing[0].threads = 1, drawing[1].threads = 3;
  for (int frame = 0; frame < 4; ++frame) {
    const View view = look(random, frame == 2 ? -6 : 6);
    plain.context.init_context(view, options(Traversal::instances, 1, 4096));
    plain.context.cull(scene, plain.visible, plain.stats, &draws[0]);
    raster(draws[0], view, plain.visible, drawing[0], pictures[0], stats);
    walked.context.init_context(view, options(Traversal::persistent, 3, 4096));
    draw_two_pass(walked.context, scene, view, drawing[1], history, walked.visible, draws[1], pictures[1],
                  walked.stats, stats);
    expect(pictures[0].depth == pictures[1].depth, "the depths differ", seed);
    expect(is_part(walked.visible, plain.visible), "what is drawn is out of order or not in view", seed);
    hidden += walked.stats.occluded_instances + walked.stats.occluded_nodes + walked.stats.occluded_clusters;
    brought += walked.stats.post_clusters;
  }
}

}  // namespace

int main(int, char** arguments) {
  const int runs = std::atoi(arguments[1]);
  for (int seed = 1; seed <= runs; ++seed) cull(seed), draw(seed);
  expect(dropped > 0, "every run had room", 0);
  expect(hidden > 0, "nothing was hidden", 0);
  expect(brought > 0, "no post pass brought anything", 0);
  std::printf("%d runs, %d failures\n", runs, failures);
  return failures > 0;
}
