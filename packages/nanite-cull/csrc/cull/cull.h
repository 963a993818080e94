// From instances to visible clusters: the stages of the literature, on the CPU.
//
//   init_context       the view's constants
//   instance_cull      instances whose sphere meets the frustum
//   node_cull          the hierarchy of each: nodes in the frustum that may hold the cut
//   cluster_cull       the cut itself: parent too coarse, own error fine, box in the frustum
//
// The nodes and groups of all instances are visited in one of three orders, with one result: one instance
// after the other (node_cull and cluster_cull here), level by level (cull/levels.h), or as they come
// (cull/persistent.h).
//
// With occlusion that is done twice. The main pass leaves out what lay behind the last frame's depth, at the
// place where it lay then. Once its clusters are drawn, the post pass goes over the scene again, against the
// new depth, and finds what the main pass should not have left out: what main drew it knows by evaluating
// main's tests again, so nothing is recorded and no list can overflow. Whatever the last frame's depth was,
// the two passes together find all that can be seen (raster/two_pass.h draws them).
//
// The order of the result is fixed (view, then instance, then cluster), whatever the number of threads.
#pragma once

#include "core/size_class.h"
#include "core/visible.h"
#include "cull/atomic_queue.h"
#include "cull/occlusion.h"
#include "store/streamer.h"

namespace nanite_cull {

enum class Traversal { instances, levels, persistent };

struct CullOptions {
  Traversal traversal = Traversal::instances;
  // By instances: nodes waiting in one instance's traversal, clusters handed from its node_cull to
  // cluster_cull. Else, of all instances and views together: nodes of one level (levels) or of the whole pass
  // (persistent), groups of clusters.
  uint64_t max_candidate_nodes = 1u << 16;
  uint64_t max_candidate_clusters = 1u << 22;
  uint64_t max_visible_clusters = 1u << 22;
  bool frustum = true;    // false: nothing is culled by the frustum
  bool hierarchy = true;  // false: every cluster is tested, no node is
  int threads = 0;
};

struct CullStats {
  uint64_t instances = 0, visible_instances = 0;
  uint64_t tested_instances = 0;  // those that the tree over instances did not rule out
  uint64_t far_instances = 0;     // drawn as their one root cluster, without a look at the hierarchy
  uint64_t nodes = 0;             // nodes whose children were tested
  uint64_t candidate_clusters = 0;
  uint64_t visible_small = 0, visible_large = 0, triangles = 0;
  // with occlusion: what both passes left out because it is hidden, and what the post pass brought
  uint64_t occluded_instances = 0, occluded_nodes = 0, occluded_clusters = 0, post_clusters = 0;
  // what did not fit, and so is missing in the result
  uint64_t dropped_nodes = 0, dropped_candidate_clusters = 0, dropped_visible_clusters = 0;
};

// What a part of a pass found.
struct Found {
  std::vector<Visible> small, large;
  CullStats stats;
};

// Visible clusters in one buffer: those of small triangles from the front, those that have large
// triangles or may cross the near plane from the back.
struct VisibleClusters {
  std::vector<Visible> buffer;
  uint64_t small = 0, large = 0;
  std::vector<uint64_t> small_end, large_end;  // of each view; they lie one behind the other
  const Visible& large_at(uint64_t i) const { return buffer[buffer.size() - 1 - i]; }
};

// The instances behind visible clusters: draws[of[i]] for slot i of the buffer.
struct Draws {
  std::vector<std::shared_ptr<const Asset>> assets;  // of the scene
  std::vector<PageTable> pages;                      // of each asset with a file: those that are seen
  std::vector<Draw> draws;
  std::vector<uint32_t> of;

  ClusterGeometry geometry(uint32_t asset, uint32_t cluster) const;
};

class CullContext {
 public:
  // Throws native::ValueError for a view or a capacity that makes no sense.
  // `drawn`: the view that the result is drawn in, null for the one that is culled.
  void init_context(const View& view, const CullOptions& options, const View* drawn = nullptr);
  // Several views at once: lights, cascades, cameras of a rig.
  void init_context(const std::vector<View>& views, const CullOptions& options);
  // `draws` may be null. The scene may change from the moment this returns. `streamer`: has begun a frame of
  // the scene's assets; null where all of them are in memory.
  void cull(const Scene& scene, VisibleClusters& out, CullStats& stats, Draws* draws,
            const Streamer* streamer = nullptr);

  // The two passes of a frame with occlusion; the caller holds the scene's lock over both. The post pass
  // merges what it finds into the main pass's clusters, so that their order is that of a single pass.
  // Returns where the main pass's slots are now (`moved`) and which slots are new.
  struct Merge {
    std::vector<uint32_t> small, large;  // i-th cluster of that end before -> after
    std::vector<uint32_t> added;         // slots
  };
  // Before any pass: what is there of the scene's assets. `streamed` is held until draws are collected.
  // Throws native::ValueError for an asset of a file that no frame of the streamer began with.
  void find_assets(const Scene& scene, const Streamer::Hold& streamed);
  // `occluders`: of each view; none: everything is seen.
  void main_pass(const Scene& scene, const std::vector<Occluders>& occluders, VisibleClusters& out,
                 CullStats& stats);
  void post_pass(const Scene& scene, const std::vector<Occluders>& occluders, VisibleClusters& out,
                 CullStats& stats, Merge& merge);
  void collect_draws(const Scene& scene, const VisibleClusters& visible, Draws& out) const;

  // What a worker does with candidates (core/queue_layout.h) of any instances and views, and what it found.
  class Worker {
   public:
    Worker(const CullContext& context, const Scene& scene) : context_(&context), scene_(&scene) {}
    void visit(uint64_t node, Children& out);
    void group(uint64_t group);

    Found found;
    uint64_t offered_nodes = 0, offered_clusters = 0;  // what its nodes led to

   private:
    void enter(const Candidate& candidate);

    const CullContext* context_;
    const Scene* scene_;
    // the instance of the last candidate
    uint32_t in_view_ = none, instance_ = none;
    const Asset* asset_ = nullptr;
    InstanceView view_ = {};
    InstanceOcclusion occlusion_;
    std::vector<uint32_t> clusters_;
  };

 private:
  // A view, and where in the scene to look for it.
  struct Scope {
    View view, drawn;
    float planes[6][4];            // of the frustum in the world, of unit normals
    bool picked = false;           // only the blocks of eight instances whose bit is set are looked at
    std::vector<uint64_t> blocks;  // a word for each batch of the view
  };

  // What one batch of instances found in one view; batches are joined in their order.
  struct Batch : Found {
    uint32_t view;
    const Scope* scope;
    std::vector<uint32_t> nodes;   // waiting; with missed_bit where the main pass did not come
    std::vector<uint32_t> groups;  // whose parents are too coarse: their clusters are candidates; the same
    std::vector<uint32_t> clusters;
    std::vector<uint64_t> roots;  // candidates that a traversal over all instances begins with
  };

  void run(const Scene& scene, const std::vector<Occluders>& occluders);
  void traverse(const Scene& scene);
  void instance_cull(const Scene& scene, int64_t first, int64_t last, Batch& batch) const;
  bool far_cull(const Scene& scene, int64_t first, Batch& batch) const;
  InstanceView view_of(const Scene& scene, int64_t instance, const View& view) const;
  InstanceOcclusion occlusion_of(const Scene& scene, const Asset& asset, int64_t instance,
                                 uint32_t view) const;
  void near_cull(const Scene& scene, int64_t index, Batch& batch) const;
  void node_cull(const Asset& asset, const InstanceView& view, const InstanceOcclusion& occlusion,
                 bool missed, Batch& batch) const;
  void cluster_cull(const Asset& asset, const InstanceView& view, const InstanceOcclusion& occlusion,
                    uint32_t instance, Batch& batch) const;
  void collect_pages(const VisibleClusters& visible, Draws& out) const;

  std::vector<const Residency*> streamed_;  // of the scene's assets; null for those in memory
  std::vector<const Asset*> assets_;        // as far as they are there
  std::vector<RootCluster> roots_;          // and theirs
  std::vector<Scope> scopes_;
  CullOptions options_;
  const std::vector<Occluders>* occluders_ = nullptr;  // of the pass that runs
  std::vector<Batch> batches_;                         // by view; kept: their memory serves the next frame
  std::unique_ptr<AtomicQueue> queue_;                 // of the persistent traversal; kept as well
};

}  // namespace nanite_cull
