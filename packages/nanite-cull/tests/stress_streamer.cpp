// Threads that draw, wait, throw pages out and let go of assets, all at one streamer: run under the
// sanitizers by test_streaming.py. Each cut must be whole: every leaf has one cluster that stands for it, and
// its page is there.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "cull/cull.h"
#include "store/ncl_file.h"

using namespace nanite_cull;

namespace {

std::atomic<int> failures{0};

void expect(bool holds, const char* what) {
  if (!holds && failures++ < 5) std::printf("failed: %s\n", what);
}

View looking_down(double x, double y, float threshold) {
  View view;
  const double matrix[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.01, 0, 0, -1, 0};  // reversed Z, no far plane
  std::copy(matrix, matrix + 16, view.relative_to_clip);
  view.eye[0] = x, view.eye[1] = y, view.eye[2] = 1.3;
  view.near_distance = 0.01f, view.pixels_per_unit = 200, view.threshold = threshold;
  view.width = view.height = 400;
  return view;
}

// How many visible clusters lie on the paths up from each leaf must be one.
bool is_whole(const Asset& asset, const VisibleClusters& visible) {
  std::vector<int> drawn(asset.clusters.size()), above(asset.groups.size(), -1);
  for (uint64_t i = 0; i < visible.small; ++i) ++drawn[visible.buffer[i].cluster];
  for (uint64_t i = 0; i < visible.large; ++i) ++drawn[visible.large_at(i).cluster];
  bool whole = true;
  for (uint32_t c = static_cast<uint32_t>(drawn.size()); c-- > 0;) {
    const Cluster& k = asset.clusters[c];
    drawn[c] += std::max(above[k.group], 0);  // what a group made comes later
    if (k.source_group == none) {
      whole = whole && drawn[c] == 1;
    } else {
      whole = whole && (above[k.source_group] < 0 || above[k.source_group] == drawn[c]);
      above[k.source_group] = drawn[c];
    }
  }
  return whole;
}

void draw(Streamer& streamer, const Scene& scene, int frames, int seed, bool wait) {
  std::mt19937 random(seed);
  CullContext context;
  CullOptions options;
  options.frustum = false, options.threads = 1;
  VisibleClusters visible;
  Draws draws;
  for (int i = 0; i < frames; ++i) {
    const double angle = i * 0.1 + seed;
    if (i % 3 == 2)
      streamer.begin_view(scene.assets);
    else
      streamer.begin_frame(scene.assets);
    context.init_context(looking_down(std::cos(angle), std::sin(angle), float(random() % 100) / 20), options);
    CullStats stats;
    context.cull(scene, visible, stats, &draws, &streamer);
    if (wait) streamer.load_wanted();
    expect(is_whole(*scene.assets[0], visible), "a cut is whole");
    double sum = 0;  // what the frame saw is kept, whatever has been evicted since
    for (uint64_t s = 0; s < visible.small; ++s) {
      const uint32_t cluster = visible.buffer[s].cluster;
      const ClusterGeometry geometry = draws.geometry(0, cluster);
      for (int v = 0; v < scene.assets[0]->clusters[cluster].vertex_count; ++v) sum += *geometry.position(v);
    }
    expect(std::isfinite(sum), "positions are read");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int frames = std::atoi(argv[2]);
  auto open = [&] {
    return streamed_asset(std::make_shared<const NclFile>(NclBytes::of_file(argv[1]), ReadOptions{}));
  };
  const std::shared_ptr<const Asset> asset = open();
  uint64_t total = 0;
  const uint32_t pages = static_cast<uint32_t>(asset->file->tables().pages.size());
  for (uint32_t p = 0; p < pages; ++p) total += asset->file->memory(p);
  StreamOptions options;
  options.budget = total / 2, options.threads = 3, options.max_installs = 3;
  Streamer streamer(options);
  Scene scene;
  const double identity[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
  scene.add(scene.add_asset(asset), identity, 1, 1);
  streamer.begin_frame(scene.assets);

  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&, i] { draw(streamer, scene, frames, i, i == 2); });
  threads.emplace_back([&] {  // throws pages out under everybody
    std::mt19937 random(9);
    std::vector<uint8_t> there(pages);
    for (int i = 0; i < frames; ++i) {
      for (uint8_t& page : there) page = random() % 2;
      streamer.set_pages(asset, there.data());
      expect(streamer.stats().pages <= 4 * pages, "pages are counted");  // of visitors too
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  threads.emplace_back([&] {  // assets that come and go
    for (int i = 0; i < frames / 8; ++i) {
      Scene other;
      other.add(other.add_asset(open()), identity, 1, 1);
      draw(streamer, other, 4, i, false);
    }
  });
  for (std::thread& thread : threads) thread.join();
  std::printf("%d frames, %llu pages came, %llu went, %d failures\n", 3 * frames,
              static_cast<unsigned long long>(streamer.stats().installed),
              static_cast<unsigned long long>(streamer.stats().evicted), failures.load());
  return failures == 0 ? 0 : 1;
}
