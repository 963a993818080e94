#include "cull/cull.h"

#include <algorithm>
#include <mutex>
#include <string>
#include <tuple>

#include "core/queue_layout.h"
#include "core/requests.h"
#include "cull/cull_far.h"
#include "cull/cull_simd.h"
#include "cull/levels.h"
#include "cull/persistent.h"
#include "native/check.h"
#include "native/parallel.h"
#include "store/ncl_file.h"

namespace nanite_cull {

namespace {

constexpr int64_t batch_instances = 512;   // the unit of parallel work
constexpr uint32_t missed_bit = leaf_bit;  // nodes and groups have 31 bits
constexpr uint32_t queue_batch = 16;       // groups that a worker takes at once
constexpr uint64_t most_queued = 1u << 28;

void require_capacity(uint64_t capacity, const char* name) {
  native::demand(capacity >= 1 && capacity < (uint64_t(1) << 31), [&] {
    return std::string("cull: ") + name + " must be 1 to 2^31 - 1, got " + std::to_string(capacity);
  });
}

// All totals of a queue stay below 2^32: a node leads to eight more at most.
std::unique_ptr<AtomicQueue> make_queue(uint64_t nodes, uint64_t groups) {
  native::demand(nodes <= most_queued && groups <= most_queued, [&] {
    return "cull: the persistent traversal keeps at most 2^28 candidates; max_candidate_nodes and "
           "max_candidate_clusters are " +
           std::to_string(nodes) + " and " + std::to_string(groups);
  });
  return std::make_unique<AtomicQueue>(static_cast<uint32_t>(nodes), static_cast<uint32_t>(groups),
                                       queue_batch);
}

Box box_of(const Asset& asset, uint32_t cluster) {
  Box box;
  for (int a = 0; a < 3; ++a)
    box.lo[a] = asset.bounds.lo[a][cluster], box.hi[a] = asset.bounds.hi[a][cluster];
  return box;
}

bool large_cluster(const Asset& asset, const LodView& lod, uint32_t cluster) {
  const Box box = box_of(asset, cluster);
  return is_large(lod, box.lo, box.hi, asset.clusters[cluster].longest_edge);
}

// Whether the clusters of a group are candidates: their parents are too coarse.
bool expands(const Asset& asset, const LodView& lod, uint32_t g) {
  const LodBounds& bounds = asset.groups[g].bounds;
  if (asset.requests)
    if (const float pixels = pixels_without(lod, bounds); pixels > 0) asset.requests->ask(g, pixels);
  return too_coarse(lod, bounds);
}

// One node: the nodes and groups to go on with. `waiting` and they carry missed_bit.
void visit_node(const Asset& asset, const InstanceView& view, const InstanceOcclusion& occlusion,
                uint32_t waiting, Children& out, CullStats& stats) {
  out.nodes = out.groups = 0;
  ++stats.nodes;
  const Node& node = asset.nodes[waiting & ~missed_bit];
  for (uint32_t mask = visible_children(node, view); mask; mask &= mask - 1) {
    const int lane = __builtin_ctz(mask);
    const float lo[3] = {node.lo[0][lane], node.lo[1][lane], node.lo[2][lane]},
                hi[3] = {node.hi[0][lane], node.hi[1][lane], node.hi[2][lane]};
    const Sight sight = occlusion.test(lo, hi, node_widening, waiting & missed_bit);
    if (sight == Sight::hidden) {
      ++stats.occluded_nodes;
      continue;
    }
    const uint32_t child = node.child[lane], mark = sight == Sight::missed ? missed_bit : 0;
    if (!(child & leaf_bit))
      out.node[out.nodes++] = child | mark;
    else if (const uint32_t g = child & ~leaf_bit; expands(asset, view.lod, g))
      out.group[out.groups++] = g | mark;
  }
}

// One group, with missed_bit: appends those of its clusters that this pass draws.
void visit_group(const Asset& asset, const InstanceView& view, const InstanceOcclusion& occlusion, uint32_t g,
                 std::vector<uint32_t>& out, CullStats& stats) {
  const Group& group = asset.groups[g & ~missed_bit];
  for (uint32_t c = 0; c < group.cluster_count; c += 8) {
    const uint32_t lanes = std::min(8u, group.cluster_count - c), first = group.cluster_begin + c;
    for (uint32_t mask = visible_clusters(asset.bounds, first, lanes, view); mask; mask &= mask - 1) {
      const uint32_t cluster = first + __builtin_ctz(mask);
      const Box box = box_of(asset, cluster);
      const Sight sight = occlusion.test(box.lo, box.hi, cluster_widening, g & missed_bit);
      if (sight == occlusion.wanted()) out.push_back(cluster);
      if (sight == Sight::hidden) ++stats.occluded_clusters;
    }
  }
}

void take_clusters(const Asset& asset, const LodView& lod, uint32_t view, uint32_t instance,
                   const std::vector<uint32_t>& clusters, Found& out) {
  for (uint32_t c : clusters) {
    (large_cluster(asset, lod, c) ? out.large : out.small).push_back({view, instance, c});
    out.stats.triangles += asset.clusters[c].triangle_count;
  }
}

// What a pass adds to a frame's numbers.
void add_work(const CullStats& pass, CullStats& stats) {
  stats.nodes += pass.nodes, stats.candidate_clusters += pass.candidate_clusters;
  stats.triangles += pass.triangles;
  stats.dropped_nodes += pass.dropped_nodes;
  stats.dropped_candidate_clusters += pass.dropped_candidate_clusters;
}

bool comes_before(const Visible& a, const Visible& b) {
  return std::tie(a.view, a.instance, a.cluster) < std::tie(b.view, b.instance, b.cluster);
}

// Merges sorted clusters into the `count` sorted ones that lie from slot `end` inwards; from behind, so that
// it is done in place. `moved`: where each of those is now.
void merge_into(std::vector<Visible>& buffer, uint32_t end, int step, uint64_t count,
                const std::vector<Visible>& found, std::vector<uint32_t>& moved,
                std::vector<uint32_t>& added) {
  auto slot = [&](uint64_t i) { return static_cast<uint32_t>(end + step * static_cast<int64_t>(i)); };
  moved.resize(count);
  uint64_t old = count, fresh = found.size();
  while (old + fresh > 0) {
    const uint32_t to = slot(old + fresh - 1);
    if (fresh == 0 || (old > 0 && comes_before(found[fresh - 1], buffer[slot(old - 1)]))) {
      buffer[to] = buffer[slot(--old)];
      moved[old] = to;
    } else {
      buffer[to] = found[--fresh];
      added.push_back(to);
    }
  }
}

void check_view(const View& view) {
  native::demand(view.width >= 1 && view.height >= 1 && view.width <= 16384 && view.height <= 16384, [&] {
    return "cull: the image must be 1 to 16384 pixels wide and high, got " + std::to_string(view.width) +
           " x " + std::to_string(view.height);
  });
  native::demand(view.threshold >= 0 && view.threshold <= 1e9f, [&] {
    return "cull: threshold must be 0 to 1e9 pixels, got " + std::to_string(view.threshold);
  });
  native::demand(view.near_distance > 0 && view.pixels_per_unit > 0, [&] {
    return "cull: the near distance and the scale of the view must be positive, got " +
           std::to_string(view.near_distance) + " and " + std::to_string(view.pixels_per_unit);
  });
}

}  // namespace

void CullContext::init_context(const View& view, const CullOptions& options, const View* drawn) {
  init_context(std::vector<View>{view}, options);
  if (drawn) scopes_[0].drawn = *drawn;
}

void CullContext::init_context(const std::vector<View>& views, const CullOptions& options) {
  native::demand(!views.empty() && views.size() <= most_views, [&] {
    return "cull: 1 to " + std::to_string(most_views) + " views at once, got " + std::to_string(views.size());
  });
  require_capacity(options.max_candidate_nodes, "max_candidate_nodes");
  require_capacity(options.max_candidate_clusters, "max_candidate_clusters");
  require_capacity(options.max_visible_clusters, "max_visible_clusters");
  native::demand(options.hierarchy || options.traversal == Traversal::instances, [] {
    return std::string(
        "cull: without a hierarchy there is no order of levels or of a queue; traversal must be instances "
        "where hierarchy is false");
  });
  for (const View& view : views) check_view(view);
  if (options.traversal != Traversal::persistent) {
    queue_.reset();
  } else if (const uint64_t nodes = options.max_candidate_nodes, groups = options.max_candidate_clusters;
             !queue_ || nodes != options_.max_candidate_nodes || groups != options_.max_candidate_clusters) {
    queue_ = make_queue(nodes, groups);
  }
  options_ = options;
  scopes_.resize(views.size());
  for (size_t i = 0; i < views.size(); ++i) {
    scopes_[i].view = scopes_[i].drawn = views[i];
    world_planes(views[i], scopes_[i].planes);
  }
}

void CullContext::find_assets(const Scene& scene, const Streamer::Hold& streamed) {
  streamed_.clear(), assets_.clear();
  roots_ = scene.roots;
  for (uint32_t i = 0; i < scene.assets.size(); ++i) {
    const Asset* asset = scene.assets[i].get();
    streamed_.push_back(asset->file ? streamed.find(*asset) : nullptr);
    if (asset->file) {
      native::demand(streamed_[i] != nullptr, [&] {
        return "cull: asset " + std::to_string(i) +
               " is streamed from a file; give a Streamer that has begun a frame of it";
      });
      asset = &streamed_[i]->asset();
      roots_[i] = root_of(*asset);
    }
    native::demand(options_.traversal == Traversal::instances ||
                       std::max(asset->nodes.size(), asset->groups.size()) <= most_items,
                   [&] {
                     return "cull: asset " + std::to_string(i) + " has more than " +
                            std::to_string(most_items) + " nodes or groups; traversal must be instances";
                   });
    assets_.push_back(asset);
  }
}

void CullContext::cull(const Scene& scene, VisibleClusters& out, CullStats& stats, Draws* draws,
                       const Streamer* streamer) {
  const std::shared_lock held(scene.lock);
  const Streamer::Hold streamed(streamer);
  find_assets(scene, streamed);
  main_pass(scene, {}, out, stats);
  if (draws) collect_draws(scene, out, *draws);
}

ClusterGeometry Draws::geometry(uint32_t asset, uint32_t cluster) const {
  const Asset& a = *assets[asset];
  const Cluster& c = a.clusters[cluster];
  return a.file ? pages[asset][a.file->page_of(cluster)]->geometry(c) : a.geometry(c);
}

void CullContext::main_pass(const Scene& scene, const std::vector<Occluders>& occluders, VisibleClusters& out,
                            CullStats& stats) {
  run(scene, occluders);
  out.buffer.resize(options_.max_visible_clusters);
  out.small = out.large = 0;
  out.small_end.assign(scopes_.size(), 0), out.large_end.assign(scopes_.size(), 0);
  stats = {};
  stats.instances = scene.size() * scopes_.size();
  const uint64_t capacity = out.buffer.size();
  for (const Batch& batch : batches_) {
    add_work(batch.stats, stats);
    stats.tested_instances += batch.stats.tested_instances;
    stats.visible_instances += batch.stats.visible_instances,
        stats.far_instances += batch.stats.far_instances;
    const uint64_t small = std::min<uint64_t>(batch.small.size(), capacity - out.small - out.large);
    std::copy_n(batch.small.begin(), small, out.buffer.begin() + out.small);
    out.small += small;
    const uint64_t large = std::min<uint64_t>(batch.large.size(), capacity - out.small - out.large);
    std::reverse_copy(batch.large.begin(), batch.large.begin() + large, out.buffer.end() - out.large - large);
    out.large += large;
    stats.dropped_visible_clusters += batch.small.size() - small + batch.large.size() - large;
    out.small_end[batch.view] = out.small, out.large_end[batch.view] = out.large;
  }
  stats.visible_small = out.small, stats.visible_large = out.large;
}

void CullContext::post_pass(const Scene& scene, const std::vector<Occluders>& occluders, VisibleClusters& out,
                            CullStats& stats, Merge& merge) {
  run(scene, occluders);
  std::vector<Visible> small, large;
  std::vector<uint64_t> small_found(scopes_.size()), large_found(scopes_.size());  // up to each view
  uint64_t room = out.buffer.size() - out.small - out.large;
  auto take = [&](const std::vector<Visible>& found, std::vector<Visible>& to) {
    const uint64_t count = std::min<uint64_t>(found.size(), room);
    to.insert(to.end(), found.begin(), found.begin() + count);
    room -= count;
    stats.dropped_visible_clusters += found.size() - count;
  };
  for (const Batch& batch : batches_) {
    const CullStats& s = batch.stats;
    add_work(s, stats);
    stats.occluded_instances += s.occluded_instances, stats.occluded_nodes += s.occluded_nodes;
    stats.occluded_clusters += s.occluded_clusters;
    take(batch.small, small), take(batch.large, large);
    small_found[batch.view] = small.size(), large_found[batch.view] = large.size();
  }
  stats.post_clusters = small.size() + large.size();
  merge.added.clear();
  merge_into(out.buffer, 0, 1, out.small, small, merge.small, merge.added);
  merge_into(out.buffer, static_cast<uint32_t>(out.buffer.size() - 1), -1, out.large, large, merge.large,
             merge.added);
  out.small += small.size(), out.large += large.size();
  for (size_t v = 0; v < scopes_.size(); ++v)
    out.small_end[v] += small_found[v], out.large_end[v] += large_found[v];
  stats.visible_small = out.small, stats.visible_large = out.large;
}

// All instances in all views, in batches that run side by side and are joined in their order.
void CullContext::run(const Scene& scene, const std::vector<Occluders>& occluders) {
  occluders_ = &occluders;
  const int64_t count = scene.size(), each = (count + batch_instances - 1) / batch_instances;
  for (Scope& scope : scopes_)
    scope.picked = options_.hierarchy && options_.frustum &&
                   scene.find_blocks(scope.planes, options_.threads, scope.blocks);
  batches_.resize(each * scopes_.size());
  native::parallel_for(static_cast<int64_t>(batches_.size()), 1, options_.threads, [&](int64_t b, int64_t) {
    Batch& batch = batches_[b];
    batch.view = static_cast<uint32_t>(b / each), batch.scope = &scopes_[batch.view];
    batch.small.clear(), batch.large.clear(), batch.roots.clear();
    batch.stats = {};
    const int64_t first = b % each * batch_instances;
    instance_cull(scene, first, std::min(first + batch_instances, count), batch);
  });
  if (options_.traversal != Traversal::instances) traverse(scene);
}

// One draw for each run of clusters of one instance in one view, at both ends of the buffer.
void CullContext::collect_draws(const Scene& scene, const VisibleClusters& visible, Draws& out) const {
  out.assets = scene.assets;
  out.draws.clear();
  out.of.resize(visible.buffer.size());
  std::vector<Visible> instances;
  auto take = [&](size_t slot) {
    const Visible& v = visible.buffer[slot];
    if (instances.empty() || instances.back().instance != v.instance || instances.back().view != v.view)
      instances.push_back(v);
    out.of[slot] = static_cast<uint32_t>(instances.size() - 1);
  };
  for (uint64_t i = 0; i < visible.small; ++i) take(i);
  for (uint64_t i = 0; i < visible.large; ++i) take(visible.buffer.size() - 1 - i);
  out.draws.resize(instances.size());
  native::parallel_for(out.draws.size(), 1024, options_.threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      out.draws[i] = make_draw(scopes_[instances[i].view].drawn, scene, instances[i].instance);
  });
  collect_pages(visible, out);
}

// What the visible clusters need of files, so that the frame keeps it.
void CullContext::collect_pages(const VisibleClusters& visible, Draws& out) const {
  out.pages.assign(streamed_.size(), {});
  bool any = false;
  for (uint32_t i = 0; i < streamed_.size(); ++i)
    if (streamed_[i]) out.pages[i].resize(streamed_[i]->pages().size()), any = true;
  if (!any) return;
  auto take = [&](size_t slot) {
    const uint32_t asset = out.draws[out.of[slot]].asset;
    if (!streamed_[asset]) return;
    const uint32_t page = out.assets[asset]->file->page_of(visible.buffer[slot].cluster);
    if (!out.pages[asset][page]) out.pages[asset][page] = streamed_[asset]->pages()[page];
  };
  for (uint64_t i = 0; i < visible.small; ++i) take(i);
  for (uint64_t i = 0; i < visible.large; ++i) take(visible.buffer.size() - 1 - i);
}

void CullContext::instance_cull(const Scene& scene, int64_t first, int64_t last, Batch& batch) const {
  for (uint64_t left = batch.scope->picked ? batch.scope->blocks[first / batch_instances] : ~uint64_t(0);
       left; left &= left - 1) {
    const int64_t begin = first + 8 * __builtin_ctzll(left), end = std::min(begin + 8, last);
    if (begin >= last) break;
    batch.stats.tested_instances += end - begin;
    if (options_.hierarchy && end == begin + 8 && far_cull(scene, begin, batch)) continue;
    for (int64_t i = begin; i < end; ++i) near_cull(scene, i, batch);
  }
}

// Eight instances at once; false where this processor has no form of that.
bool CullContext::far_cull(const Scene& scene, int64_t first, Batch& batch) const {
  FarMasks masks;
  if (!test_far(scene, roots_, first, batch.scope->view, batch.scope->planes, options_.frustum, masks))
    return false;
  for (uint32_t left = ~masks.outside & 255; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    const uint32_t instance = static_cast<uint32_t>(first + lane);
    const bool small = masks.root_small >> lane & 1, large = masks.root_large >> lane & 1;
    if (!small && !large) {
      near_cull(scene, instance, batch);
      continue;
    }
    const RootCluster& root = roots_[scene.lanes.asset[instance]];
    ++batch.stats.visible_instances, ++batch.stats.far_instances, ++batch.stats.candidate_clusters;
    const InstanceOcclusion occlusion =
        occlusion_of(scene, *scene.assets[scene.lanes.asset[instance]], instance, batch.view);
    const Sight sight = occlusion.test(root.box.lo, root.box.hi, cluster_widening, false);
    if (sight == Sight::hidden) ++batch.stats.occluded_instances;
    if (sight != occlusion.wanted()) continue;
    (large ? batch.large : batch.small).push_back({batch.view, instance, root.cluster});
    batch.stats.triangles += root.triangles;
  }
  return true;
}

void CullContext::near_cull(const Scene& scene, int64_t i, Batch& batch) const {
  const InstanceSpheres& s = scene.spheres;
  if (s.r[i] < 0) return;  // hidden
  for (int p = 0; options_.frustum && p < 6; ++p)
    if (sphere_misses(batch.scope->planes[p], s.x[i], s.y[i], s.z[i], s.r[i])) return;
  ++batch.stats.visible_instances;
  const Asset& asset = *assets_[scene.lanes.asset[i]];
  const InstanceOcclusion occlusion = occlusion_of(scene, asset, i, batch.view);
  const Sight sight = occlusion.test(asset.box.lo, asset.box.hi, node_widening, false);
  if (sight == Sight::hidden) {
    ++batch.stats.occluded_instances;
    return;
  }
  if (options_.traversal != Traversal::instances) {
    batch.roots.push_back(pack({batch.view, static_cast<uint32_t>(i), 0, sight == Sight::missed}));
    return;
  }
  const InstanceView view = view_of(scene, i, batch.scope->view);
  node_cull(asset, view, occlusion, sight == Sight::missed, batch);
  cluster_cull(asset, view, occlusion, static_cast<uint32_t>(i), batch);
}

InstanceView CullContext::view_of(const Scene& scene, int64_t instance, const View& view) const {
  InstanceView out = make_instance_view(view, scene, instance);
  if (!options_.frustum) out.plane_count = 0;
  return out;
}

InstanceOcclusion CullContext::occlusion_of(const Scene& scene, const Asset& asset, int64_t instance,
                                            uint32_t view) const {
  if (occluders_->empty()) return {};
  return InstanceOcclusion((*occluders_)[view], scopes_[view].view, scene, asset, instance);
}

void CullContext::node_cull(const Asset& asset, const InstanceView& view, const InstanceOcclusion& occlusion,
                            bool missed, Batch& batch) const {
  batch.groups.clear();
  uint64_t candidates = 0;
  auto add_group = [&](uint32_t g) {
    const uint32_t count = asset.groups[g & ~missed_bit].cluster_count;
    if (candidates + count > options_.max_candidate_clusters) {
      batch.stats.dropped_candidate_clusters += count;
      return;
    }
    candidates += count;
    batch.groups.push_back(g);
  };
  const uint32_t root_mark = missed ? missed_bit : 0;
  if (!options_.hierarchy) {
    for (uint32_t g = 0; g < asset.groups.size(); ++g)
      if (expands(asset, view.lod, g)) add_group(g | root_mark);
  } else {
    batch.nodes.assign(1, root_mark);
    Children found;
    while (!batch.nodes.empty()) {
      const uint32_t waiting = batch.nodes.back();
      batch.nodes.pop_back();
      visit_node(asset, view, occlusion, waiting, found, batch.stats);
      for (uint32_t i = 0; i < found.groups; ++i) add_group(static_cast<uint32_t>(found.group[i]));
      for (uint32_t i = 0; i < found.nodes; ++i)
        if (batch.nodes.size() < options_.max_candidate_nodes)
          batch.nodes.push_back(static_cast<uint32_t>(found.node[i]));
        else
          ++batch.stats.dropped_nodes;
    }
  }
  batch.stats.candidate_clusters += candidates;
}

void CullContext::cluster_cull(const Asset& asset, const InstanceView& view,
                               const InstanceOcclusion& occlusion, uint32_t instance, Batch& batch) const {
  batch.clusters.clear();
  for (uint32_t g : batch.groups) visit_group(asset, view, occlusion, g, batch.clusters, batch.stats);
  std::sort(batch.clusters.begin(), batch.clusters.end());
  take_clusters(asset, view.lod, batch.view, instance, batch.clusters, batch);
}

// The nodes and groups of all instances by a traversal of its own; what it finds goes to the batches.
void CullContext::traverse(const Scene& scene) {
  std::vector<uint64_t> roots;
  for (const Batch& batch : batches_) roots.insert(roots.end(), batch.roots.begin(), batch.roots.end());
  if (roots.empty()) return;
  std::vector<Worker> workers;
  if (options_.traversal == Traversal::levels)
    traverse_levels(roots, options_, Worker(*this, scene), workers);
  else
    traverse_persistent(*queue_, roots, options_.threads, Worker(*this, scene), workers);

  CullStats& stats = batches_.front().stats;
  const size_t each = batches_.size() / scopes_.size();
  uint64_t nodes = 0, clusters = 0, offered_nodes = roots.size(), offered_clusters = 0;
  for (const Worker& worker : workers) {
    const Found& found = worker.found;
    add_work(found.stats, stats);
    stats.occluded_nodes += found.stats.occluded_nodes;
    stats.occluded_clusters += found.stats.occluded_clusters;
    nodes += found.stats.nodes, clusters += found.stats.candidate_clusters;
    offered_nodes += worker.offered_nodes, offered_clusters += worker.offered_clusters;
    for (const Visible& v : found.small)
      batches_[v.view * each + v.instance / batch_instances].small.push_back(v);
    for (const Visible& v : found.large)
      batches_[v.view * each + v.instance / batch_instances].large.push_back(v);
  }
  stats.dropped_nodes += offered_nodes - nodes;
  stats.dropped_candidate_clusters += offered_clusters - clusters;
  native::parallel_for(static_cast<int64_t>(batches_.size()), 1, options_.threads, [&](int64_t b, int64_t) {
    std::sort(batches_[b].small.begin(), batches_[b].small.end(), comes_before);
    std::sort(batches_[b].large.begin(), batches_[b].large.end(), comes_before);
  });
}

// Candidates of one instance tend to come together: what they share is worked out once.
void CullContext::Worker::enter(const Candidate& candidate) {
  if (candidate.view == in_view_ && candidate.instance == instance_) return;
  in_view_ = candidate.view, instance_ = candidate.instance;
  const View& view = context_->scopes_[in_view_].view;
  asset_ = context_->assets_[scene_->lanes.asset[instance_]];
  view_ = context_->view_of(*scene_, instance_, view);
  occlusion_ = context_->occlusion_of(*scene_, *asset_, instance_, in_view_);
}

void CullContext::Worker::visit(uint64_t node, Children& out) {
  const Candidate from = unpack(node);
  enter(from);
  visit_node(*asset_, view_, occlusion_, from.item | (from.missed ? missed_bit : 0), out, found.stats);
  auto candidate = [&](uint64_t item) {
    return pack(
        {from.view, from.instance, static_cast<uint32_t>(item & ~missed_bit), (item & missed_bit) != 0});
  };
  offered_nodes += out.nodes;
  for (uint32_t i = 0; i < out.nodes; ++i) out.node[i] = candidate(out.node[i]);
  for (uint32_t i = 0; i < out.groups; ++i) {
    offered_clusters += asset_->groups[out.group[i] & ~missed_bit].cluster_count;
    out.group[i] = candidate(out.group[i]);
  }
}

void CullContext::Worker::group(uint64_t group) {
  const Candidate from = unpack(group);
  enter(from);
  found.stats.candidate_clusters += asset_->groups[from.item].cluster_count;
  clusters_.clear();
  visit_group(*asset_, view_, occlusion_, from.item | (from.missed ? missed_bit : 0), clusters_, found.stats);
  take_clusters(*asset_, view_.lod, from.view, from.instance, clusters_, found);
}

}  // namespace nanite_cull
