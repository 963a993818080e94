#include <string>
#include <utility>

#include "cull/cull.cuh"
#include "cull/device_cull.h"
#include "cull/persistent.cuh"
#include "native/check.h"

namespace nanite_cull::cuda {

namespace {

constexpr uint64_t most_capacity = 1u << 28;  // as of the host's queues
constexpr int blocks_per_multiprocessor = 16;

// Bits that numbers below `count` take.
int bits_for(uint64_t count) {
  int bits = 0;
  while (bits < 64 && count > uint64_t(1) << bits) ++bits;
  return bits;
}

int64_t blocks_for(int64_t threads) {
  return dev::grid_blocks((threads + cull_threads - 1) / cull_threads, blocks_per_multiprocessor);
}

}  // namespace

CullPass Culler::prepare(const DeviceScene& scene, const View& view, const CullOptions& options,
                         dev::Stream stream) {
  native::demand(options.traversal != Traversal::instances && options.hierarchy, [] {
    return std::string("cull: a device goes level by level or persistently through hierarchies");
  });
  native::demand(options.max_candidate_nodes <= most_capacity &&
                     options.max_candidate_clusters <= most_capacity &&
                     options.max_visible_clusters <= most_capacity,
                 [] { return std::string("cull: capacities on a device are at most 2^28"); });
  const SceneArrays arrays = scene.arrays();
  const KeyLayout layout{bits_for(arrays.count), bits_for(scene.most_clusters())};
  native::demand(layout.bits() < 64 && scene.depth() < most_levels, [] {
    return std::string(
        "cull: on a device hierarchies have fewer than 64 levels, and numbers of instances "
        "and clusters 62 bits together");
  });
  capacity_ = {static_cast<uint32_t>(options.max_candidate_nodes),
               static_cast<uint32_t>(options.max_candidate_clusters),
               static_cast<uint32_t>(options.max_visible_clusters)};
  instances_ = arrays.count, persistent_ = options.traversal == Traversal::persistent;
  views_.resize(arrays.count), to_clip_.resize(16 * size_t(arrays.count)), entered_.resize(arrays.count);
  for (auto& nodes : nodes_) nodes.resize(capacity_.nodes);
  groups_.resize(capacity_.groups);
  keys_.resize(capacity_.visible), other_keys_.resize(capacity_.visible), visible_.resize(capacity_.visible);
  view_.resize(1), counts_.resize(1);

  CullView constants{};
  static_assert(sizeof(constants.view) == sizeof(view), "the same bits");
  std::memcpy(&constants.view, &view, sizeof(view));
  world_planes(view, constants.planes);
  constants.frustum = options.frustum;
  view_.upload(&constants, 0, 1, stream);
  counts_.fill(0, stream);
  keys_.fill(0xff, stream);
  return {arrays,          view_.data(),     capacity_,        layout,         views_.data(), to_clip_.data(),
          entered_.data(), nodes_[1].data(), nodes_[0].data(), groups_.data(), keys_.data(),  counts_.data()};
}

void Culler::cull(const DeviceScene& scene, const View& view, const CullOptions& options,
                  dev::Stream stream) {
  CullPass pass = prepare(scene, view, options, stream);
  if (instances_ > 0) {
    if (persistent_) nodes_[0].fill(0xff, stream);  // empty_slot
    dev::launch(cull_instances, blocks_for(instances_), cull_threads, 0, stream, pass);
    dev::launch(enter_instances, blocks_for(int64_t(instances_) * view_lanes), cull_threads, 0, stream, pass);
    if (persistent_)
      traverse_persistent(pass, stream);
    else
      traverse_levels(pass, scene.depth(), stream);
    sort_keys(keys_, other_keys_, sort_scratch_, pass.layout.bits() + 1, stream);
  }
  pass.keys = keys_.data();
  dev::launch(place_clusters, blocks_for(capacity_.visible), cull_threads, 0, stream, pass, visible_.data());
}

void Culler::traverse_levels(CullPass& pass, int depth, dev::Stream stream) const {
  for (int level = 0; level < depth; ++level) {
    std::swap(pass.from, pass.to);
    dev::launch(cull_nodes, blocks_for(int64_t(capacity_.nodes) * 8), cull_threads, 0, stream, pass, level);
  }
  dev::launch(cull_clusters, blocks_for(int64_t(capacity_.groups) * group_lanes), cull_threads, 0, stream,
              pass);
}

void Culler::traverse_persistent(const CullPass& pass, dev::Stream stream) {
  queue_.resize(1), commits_.resize((capacity_.groups - 1) / device_batch + 1);
  commits_.fill(0, stream);
  const DeviceQueue queue{queue_.data(), pass.to, pass.groups, commits_.data()};
  dev::launch(begin_traversal, 1, 1, 0, stream, queue, pass.counts, capacity_.nodes);
  dev::launch(traverse<DeviceQueue>, dev::grid_blocks(capacity_.nodes, 8), persistent_threads, 0, stream,
              pass, queue);
}

void Culler::read_back(VisibleClusters& out, CullStats& stats, dev::Stream stream) const {
  CullCounts counts;
  counts_.read_back(&counts, 0, 1, stream);
  stats = {};
  stats.instances = stats.tested_instances = instances_;
  stats.visible_instances = counts.entered, stats.far_instances = counts.far;
  for (const Count offered : counts.nodes) {
    const Count visited = persistent_ ? offered : filled(offered, capacity_.nodes);
    stats.nodes += visited, stats.dropped_nodes += offered - visited;
  }
  if (persistent_) stats.dropped_nodes = stats.nodes - counts.visited, stats.nodes = counts.visited;
  stats.candidate_clusters = counts.candidate_clusters + counts.far;
  stats.dropped_candidate_clusters = counts.offered_clusters - counts.candidate_clusters;
  stats.visible_small = counts.small, stats.visible_large = counts.large, stats.triangles = counts.triangles;
  stats.dropped_visible_clusters = counts.visible - counts.small - counts.large;

  out.buffer.resize(capacity_.visible);
  out.small = counts.small, out.large = counts.large;
  out.small_end = {out.small}, out.large_end = {out.large};
  visible_.read_back(out.buffer.data(), 0, out.small, stream);
  const size_t large_begin = out.buffer.size() - out.large;
  visible_.read_back(out.buffer.data() + large_begin, large_begin, out.large, stream);
}

}  // namespace nanite_cull::cuda
