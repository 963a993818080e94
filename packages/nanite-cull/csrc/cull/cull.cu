#include <cstring>
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

BasicView<Wide> wide(const View& view) {
  BasicView<Wide> out;
  static_assert(sizeof(out) == sizeof(view), "the same bits");
  std::memcpy(static_cast<void*>(&out), &view, sizeof(view));
  return out;
}

// `last`: may be null.
CullView camera_of(const View& view, bool frustum, const LastFrame* last) {
  CullView out{};
  out.view = wide(view), out.frustum = frustum;
  world_planes(view, out.planes);
  if (!last) return out;
  out.occluders.before = last->pyramid, out.occluders.view_before = wide(last->view);
  out.occluders.places_before = last->places, out.occluders.count_before = last->count;
  return out;
}

}  // namespace

CullPass Culler::prepare(const DeviceScene& scene, const std::vector<View>& views, const CullOptions& options,
                         const std::vector<LastFrame>& last) {
  native::demand(options.traversal != Traversal::instances && options.hierarchy, [] {
    return std::string("cull: a device goes level by level or persistently through hierarchies");
  });
  native::demand(options.max_candidate_nodes <= most_capacity &&
                     options.max_candidate_clusters <= most_capacity &&
                     options.max_visible_clusters <= most_capacity,
                 [] { return std::string("cull: capacities on a device are at most 2^28"); });
  const SceneArrays arrays = scene.arrays();
  const KeyLayout layout{bits_for(views.size()), bits_for(arrays.count), bits_for(scene.most_clusters())};
  native::demand(layout.bits() < 64 && scene.depth() < most_levels, [] {
    return std::string(
        "cull: on a device hierarchies have fewer than 64 levels, and numbers of views, instances and "
        "clusters 62 bits together");
  });
  const uint64_t seen = uint64_t(views.size()) * arrays.count;
  native::demand(seen < none, [&] {
    return "cull: on a device instances times views must stay below 2^32 - 1, got " +
           std::to_string(arrays.count) + " in " + std::to_string(views.size()) + "; ask for fewer views";
  });
  capacity_ = {static_cast<uint32_t>(options.max_candidate_nodes),
               static_cast<uint32_t>(options.max_candidate_clusters),
               static_cast<uint32_t>(options.max_visible_clusters)};
  persistent_ = options.traversal == Traversal::persistent;
  views_.resize(seen), to_clip_.resize(16 * seen), entered_.resize(seen);
  if (!last.empty()) sights_.resize(seen);
  for (auto& nodes : nodes_) nodes.resize(capacity_.nodes);
  groups_.resize(capacity_.groups);
  keys_.resize(capacity_.visible), other_keys_.resize(capacity_.visible), visible_.resize(capacity_.visible);
  device_cameras_.resize(views.size()), counts_.resize(2), listed_.resize(2);

  cameras_.clear();
  for (size_t v = 0; v < views.size(); ++v)
    cameras_.push_back(camera_of(views[v], options.frustum, last.empty() ? nullptr : &last[v]));
  CullPass pass{};
  pass.scene = arrays, pass.cameras = device_cameras_.data(), pass.seen_count = static_cast<uint32_t>(seen);
  pass.capacity = capacity_, pass.layout = layout;
  pass.views = views_.data(), pass.to_clip = to_clip_.data(), pass.entered = entered_.data();
  pass.sights = last.empty() ? nullptr : sights_.data();
  pass.groups = groups_.data(), pass.counts = counts_.data();
  return pass;
}

void Culler::cull(const DeviceScene& scene, const std::vector<View>& views, const CullOptions& options,
                  dev::Stream stream, const std::vector<LastFrame>& last) {
  pass_ = prepare(scene, views, options, last);
  depth_ = scene.depth(), passes_ = 1;
  counts_.fill(0, stream), keys_.fill(0xff, stream);
  run(stream);
}

void Culler::post_pass(const std::vector<Hzb>& now, dev::Stream stream) {
  main_keys_.resize(keys_.size());
  added_[0].resize(capacity_.visible), added_[1].resize(capacity_.visible);
  dev::copy_on_device(main_keys_.data(), keys_.data(), keys_.size() * sizeof(uint64_t), stream);
  for (size_t v = 0; v < now.size(); ++v)
    cameras_[v].occluders.now = now[v], cameras_[v].occluders.post = true;
  passes_ = 2;
  pass_.counts = counts_.data() + 1;
  dev::launch(begin_post_pass, 1, 1, 0, stream, counts_.data(), pass_.counts);
  run(stream);
  listed_.fill(0, stream);
  dev::launch(list_added, blocks_for(capacity_.visible), cull_threads, 0, stream, main_keys_.data(), pass_,
              counts_.data(), added_[0].data(), added_[1].data(), listed_.data());
}

// A pass from the instances to the slots.
void Culler::run(dev::Stream stream) {
  device_cameras_.upload(cameras_, stream);
  pass_.from = nodes_[1].data(), pass_.to = nodes_[0].data(), pass_.keys = keys_.data();
  if (pass_.seen_count > 0) {
    if (persistent_) nodes_[0].fill(0xff, stream);  // empty_slot
    dev::launch(cull_instances, blocks_for(pass_.seen_count), cull_threads, 0, stream, pass_);
    dev::launch(enter_instances, blocks_for(int64_t(pass_.seen_count) * view_lanes), cull_threads, 0, stream,
                pass_);
    dev::launch(begin_instances, blocks_for(pass_.seen_count), cull_threads, 0, stream, pass_);
    if (persistent_)
      traverse_persistent(stream);
    else
      traverse_levels(stream);
    sort_keys(keys_, other_keys_, sort_scratch_, pass_.layout.bits() + 1, stream);
  }
  pass_.keys = keys_.data();
  dev::launch(place_clusters, blocks_for(capacity_.visible), cull_threads, 0, stream, pass_, visible_.data());
}

void Culler::traverse_levels(dev::Stream stream) {
  for (int level = 0; level < depth_; ++level) {
    std::swap(pass_.from, pass_.to);
    dev::launch(cull_nodes, blocks_for(int64_t(capacity_.nodes) * 8), cull_threads, 0, stream, pass_, level);
  }
  dev::launch(cull_clusters, blocks_for(int64_t(capacity_.groups) * group_lanes), cull_threads, 0, stream,
              pass_);
}

void Culler::traverse_persistent(dev::Stream stream) {
  queue_.resize(1), commits_.resize((capacity_.groups - 1) / device_batch + 1);
  commits_.fill(0, stream);
  const DeviceQueue queue{queue_.data(), pass_.to, pass_.groups, commits_.data()};
  dev::launch(begin_traversal, 1, 1, 0, stream, queue, pass_.counts, capacity_.nodes);
  dev::launch(traverse<DeviceQueue>, dev::grid_blocks(capacity_.nodes, 8), persistent_threads, 0, stream,
              pass_, queue);
}

// What a pass adds to a frame's numbers.
void Culler::add_work(const CullCounts& counts, CullStats& stats) const {
  uint64_t offered = 0, visited = 0;
  for (const Count at_level : counts.nodes) offered += at_level, visited += filled(at_level, capacity_.nodes);
  if (persistent_) visited = counts.visited;
  stats.nodes += visited, stats.dropped_nodes += offered - visited;
  stats.candidate_clusters += counts.candidate_clusters + counts.far;
  stats.dropped_candidate_clusters += counts.offered_clusters - counts.candidate_clusters;
}

CullCounts Culler::add_stats(CullStats& stats, dev::Stream stream) const {
  CullCounts all[2];
  counts_.read_back(all, 0, 2, stream);
  stats.instances += pass_.seen_count, stats.tested_instances += pass_.seen_count;
  stats.visible_instances += all[0].entered, stats.far_instances += all[0].far;
  for (int pass = 0; pass < passes_; ++pass) add_work(all[pass], stats);
  if (passes_ == 2) {
    const CullCounts& post = all[1];
    stats.occluded_instances += post.hidden_instances, stats.occluded_nodes += post.hidden_nodes;
    stats.occluded_clusters += post.hidden_clusters;
    stats.post_clusters += post.small + post.large - all[0].small - all[0].large;
  }
  const CullCounts& counts = all[passes_ - 1];
  stats.visible_small += counts.small, stats.visible_large += counts.large;
  stats.triangles += counts.triangles;
  stats.dropped_visible_clusters += counts.visible - counts.small - counts.large;
  return counts;
}

void Culler::read_back(VisibleClusters& out, CullStats& stats, dev::Stream stream) const {
  stats = {};
  const CullCounts counts = add_stats(stats, stream);
  out.buffer.resize(capacity_.visible);
  out.small = counts.small, out.large = counts.large;
  out.small_end = {out.small}, out.large_end = {out.large};
  visible_.read_back(out.buffer.data(), 0, out.small, stream);
  const size_t large_begin = out.buffer.size() - out.large;
  visible_.read_back(out.buffer.data() + large_begin, large_begin, out.large, stream);
}

}  // namespace nanite_cull::cuda
