#include "cull/cull.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string>
#include <tuple>

#include "core/queue_layout.h"
#include "core/requests.h"
#include "cull/cull_far.h"
#include "cull/cull_simd.h"
#include "native/check.h"
#include "native/parallel.h"
#include "store/ncl_file.h"

namespace nanite_cull {

namespace {

constexpr int64_t batch_instances = 512;   // the unit of parallel work
constexpr uint32_t missed_bit = leaf_bit;  // nodes and groups have 31 bits
constexpr float always_inside = 1e30f;     // the offset of a plane without a normal: a far plane at infinity

void require_capacity(uint64_t capacity, const char* name) {
  native::demand(capacity >= 1 && capacity < (uint64_t(1) << 31), [&] {
    return std::string("cull: ") + name + " must be 1 to 2^31 - 1, got " + std::to_string(capacity);
  });
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

void world_planes(const View& view, float (*planes)[4]) {
  const int rows[6] = {0, 0, 1, 1, 2, 2};
  for (int p = 0; p < 6; ++p) {
    double plane[4], length = 0;
    for (int j = 0; j < 4; ++j)
      plane[j] = (p == 5 ? 0 : view.relative_to_clip[12 + j]) +
                 (p == 4 || p == 1 || p == 3 ? -1 : 1) * view.relative_to_clip[4 * rows[p] + j];
    for (int j = 0; j < 3; ++j) plane[3] -= plane[j] * view.eye[j];
    for (int j = 0; j < 3; ++j) length += plane[j] * plane[j];
    length = std::sqrt(length);
    for (int j = 0; j < 4; ++j)
      planes[p][j] = length > 0 ? static_cast<float>(plane[j] / length) : j == 3 ? always_inside : 0;
  }
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
  for (const View& view : views) check_view(view);
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
    assets_.push_back(asset);
  }
}

void CullContext::cull(const Scene& scene, VisibleClusters& out, CullStats& stats, Draws* draws,
                       const Streamer* streamer) {
  const std::shared_lock held(scene.lock);
  const Streamer::Hold streamed(streamer);
  find_assets(scene, streamed);
  main_pass(scene, nullptr, out, stats);
  if (draws) collect_draws(scene, out, *draws);
}

ClusterGeometry Draws::geometry(uint32_t asset, uint32_t cluster) const {
  const Asset& a = *assets[asset];
  const Cluster& c = a.clusters[cluster];
  return a.file ? pages[asset][a.file->page_of(cluster)]->geometry(c) : a.geometry(c);
}

void CullContext::main_pass(const Scene& scene, const Occluders* occluders, VisibleClusters& out,
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

void CullContext::post_pass(const Scene& scene, const Occluders& occluders, VisibleClusters& out,
                            CullStats& stats, Merge& merge) {
  run(scene, &occluders);
  std::vector<Visible> small, large;
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
  }
  stats.post_clusters = small.size() + large.size();
  merge.added.clear();
  merge_into(out.buffer, 0, 1, out.small, small, merge.small, merge.added);
  merge_into(out.buffer, static_cast<uint32_t>(out.buffer.size() - 1), -1, out.large, large, merge.large,
             merge.added);
  out.small += small.size(), out.large += large.size();
  out.small_end = {out.small}, out.large_end = {out.large};
  stats.visible_small = out.small, stats.visible_large = out.large;
}

// All instances in all views, in batches that run side by side and are joined in their order.
void CullContext::run(const Scene& scene, const Occluders* occluders) {
  occluders_ = occluders;
  const int64_t count = scene.size(), each = (count + batch_instances - 1) / batch_instances;
  for (Scope& scope : scopes_)
    scope.picked = options_.hierarchy && options_.frustum &&
                   scene.find_blocks(scope.planes, options_.threads, scope.blocks);
  batches_.resize(each * scopes_.size());
  native::parallel_for(static_cast<int64_t>(batches_.size()), 1, options_.threads, [&](int64_t b, int64_t) {
    Batch& batch = batches_[b];
    batch.view = static_cast<uint32_t>(b / each), batch.scope = &scopes_[batch.view];
    batch.small.clear(), batch.large.clear();
    batch.stats = {};
    const int64_t first = b % each * batch_instances;
    instance_cull(scene, first, std::min(first + batch_instances, count), batch);
  });
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
        occlusion_of(scene, *scene.assets[scene.lanes.asset[instance]], instance, batch);
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
  const InstanceOcclusion occlusion = occlusion_of(scene, asset, i, batch);
  const Sight sight = occlusion.test(asset.box.lo, asset.box.hi, node_widening, false);
  if (sight == Sight::hidden) {
    ++batch.stats.occluded_instances;
    return;
  }
  InstanceView view = make_instance_view(batch.scope->view, scene, i);
  if (!options_.frustum) view.plane_count = 0;
  node_cull(asset, view, occlusion, sight == Sight::missed, batch);
  cluster_cull(asset, view, occlusion, static_cast<uint32_t>(i), batch);
}

InstanceOcclusion CullContext::occlusion_of(const Scene& scene, const Asset& asset, int64_t instance,
                                            const Batch& batch) const {
  return occluders_ ? InstanceOcclusion(*occluders_, batch.scope->view, scene, asset, instance)
                    : InstanceOcclusion();
}

void CullContext::node_cull(const Asset& asset, const InstanceView& view, const InstanceOcclusion& occlusion,
                            bool missed, Batch& batch) const {
  batch.groups.clear();
  uint64_t candidates = 0;
  auto add_group = [&](uint32_t g, uint32_t missed_mark) {
    if (asset.requests)
      if (const float pixels = pixels_without(view.lod, asset.groups[g].bounds); pixels > 0)
        asset.requests->ask(g, pixels);
    if (!too_coarse(view.lod, asset.groups[g].bounds)) return;
    const uint32_t count = asset.groups[g].cluster_count;
    if (candidates + count > options_.max_candidate_clusters) {
      batch.stats.dropped_candidate_clusters += count;
      return;
    }
    candidates += count;
    batch.groups.push_back(g | missed_mark);
  };
  const uint32_t root_mark = missed ? missed_bit : 0;
  if (!options_.hierarchy) {
    for (uint32_t g = 0; g < asset.groups.size(); ++g) add_group(g, root_mark);
  } else {
    batch.nodes.assign(1, root_mark);
    while (!batch.nodes.empty()) {
      const uint32_t waiting = batch.nodes.back();
      batch.nodes.pop_back();
      ++batch.stats.nodes;
      const Node& node = asset.nodes[waiting & ~missed_bit];
      for (uint32_t mask = visible_children(node, view); mask; mask &= mask - 1) {
        const int lane = __builtin_ctz(mask);
        const float lo[3] = {node.lo[0][lane], node.lo[1][lane], node.lo[2][lane]},
                    hi[3] = {node.hi[0][lane], node.hi[1][lane], node.hi[2][lane]};
        const Sight sight = occlusion.test(lo, hi, node_widening, waiting & missed_bit);
        if (sight == Sight::hidden) {
          ++batch.stats.occluded_nodes;
          continue;
        }
        const uint32_t child = node.child[lane], mark = sight == Sight::missed ? missed_bit : 0;
        if (child & leaf_bit)
          add_group(child & ~leaf_bit, mark);
        else if (batch.nodes.size() < options_.max_candidate_nodes)
          batch.nodes.push_back(child | mark);
        else
          ++batch.stats.dropped_nodes;
      }
    }
  }
  batch.stats.candidate_clusters += candidates;
}

void CullContext::cluster_cull(const Asset& asset, const InstanceView& view,
                               const InstanceOcclusion& occlusion, uint32_t instance, Batch& batch) const {
  batch.clusters.clear();
  for (uint32_t g : batch.groups) {
    const Group& group = asset.groups[g & ~missed_bit];
    for (uint32_t c = 0; c < group.cluster_count; c += 8) {
      const uint32_t lanes = std::min(8u, group.cluster_count - c), first = group.cluster_begin + c;
      for (uint32_t mask = visible_clusters(asset.bounds, first, lanes, view); mask; mask &= mask - 1) {
        const uint32_t cluster = first + __builtin_ctz(mask);
        const Box box = box_of(asset, cluster);
        const Sight sight = occlusion.test(box.lo, box.hi, cluster_widening, g & missed_bit);
        if (sight == occlusion.wanted()) batch.clusters.push_back(cluster);
        if (sight == Sight::hidden) ++batch.stats.occluded_clusters;
      }
    }
  }
  std::sort(batch.clusters.begin(), batch.clusters.end());
  for (uint32_t c : batch.clusters) {
    (large_cluster(asset, view.lod, c) ? batch.large : batch.small).push_back({batch.view, instance, c});
    batch.stats.triangles += asset.clusters[c].triangle_count;
  }
}

}  // namespace nanite_cull
