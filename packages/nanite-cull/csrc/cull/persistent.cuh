// The persistent traversal on a device: a worker a thread, at the queue that the CPU's threads stand at
// (core/traversal_queue.h). What a worker remembers lies in shared memory, for it is indexed.
//
// No block waits for one that has not started, so any number of blocks is right; more than fit at once only
// find the queue empty.
#pragma once

#include <new>

#include "core/queue_layout.h"
#include "cull/cull_tests.cuh"
#include "cull/device_queue.cuh"

namespace nanite_cull::cuda {

constexpr int persistent_threads = 64;
constexpr uint32_t device_batch = 16;  // groups that a worker takes at once

// What a worker does with candidates.
struct DeviceWork {
  const CullPass* pass;
  Count nodes = 0, offered_nodes = 0, offered_clusters = 0, candidate_clusters = 0, small = 0, large = 0,
        triangles = 0, hidden_nodes = 0, hidden_clusters = 0;

  DEV_FN void visit(uint64_t word, Children& out) {
    const Candidate from = unpack(word);
    const AssetArrays& asset = pass->scene.assets[pass->scene.instances[from.instance].asset];
    const InstanceView& view = pass->views[pass->seen(from.view, from.instance)];
    const Node& node = asset.nodes[from.item];
    out.nodes = out.groups = 0;
    ++nodes;
    for (int i = 0; i < most_children; ++i) {
      if (!child_wanted(node, i, view)) continue;
      const Sight sight = look_at_child(*pass, from, node, i);
      hidden_nodes += sight == Sight::hidden;
      if (sight == Sight::hidden) continue;
      const uint32_t child = node.child[i], item = child & ~leaf_bit;
      if (!(child & leaf_bit)) {
        out.node[out.nodes++] = pack({from.view, from.instance, item, sight == Sight::missed});
      } else if (expands(asset, view.lod, item)) {
        out.group[out.groups++] = pack({from.view, from.instance, item, sight == Sight::missed});
        offered_clusters += asset.groups[item].cluster_count;
      }
    }
    offered_nodes += out.nodes;
  }

  DEV_FN void group(uint64_t word) {
    const Candidate from = unpack(word);
    const AssetArrays& asset = pass->scene.assets[pass->scene.instances[from.instance].asset];
    const InstanceView& view = pass->views[pass->seen(from.view, from.instance)];
    const Group& group = asset.groups[from.item];
    candidate_clusters += group.cluster_count;
    for (uint32_t c = group.cluster_begin; c < group.cluster_begin + group.cluster_count; ++c) {
      float lo[3], hi[3];
      if (!cluster_wanted(asset, c, view, lo, hi)) continue;
      const Sight sight = look_at(*pass, from.view, from.instance, lo, hi, cluster_widening, from.missed);
      hidden_clusters += sight == Sight::hidden;
      if (sight != drawn_by(*pass)) continue;
      const bool is_large_one = is_large(view.lod, lo, hi, asset.clusters[c].longest_edge);
      const Count at = atomicAdd(&pass->counts->visible, Count(1));
      if (at >= pass->capacity.visible) continue;
      pass->keys[at] = pass->layout.key(is_large_one, from.view, from.instance, c);
      ++(is_large_one ? large : small), triangles += asset.clusters[c].triangle_count;
    }
  }

  // All lanes of a warp call.
  DEV_FN void report(CullCounts& counts) const {
    add_up(nodes, &counts.visited), add_up(offered_nodes, &counts.nodes[1]);
    add_up(offered_clusters, &counts.offered_clusters),
        add_up(candidate_clusters, &counts.candidate_clusters);
    add_up(hidden_nodes, &counts.hidden_nodes), add_up(hidden_clusters, &counts.hidden_clusters);
    add_up(small, &counts.small), add_up(large, &counts.large), add_up(triangles, &counts.triangles);
  }
};

// One thread: begins with the roots that enter_instances left in the queue's nodes.
DEV_KERNEL(1) begin_traversal(DeviceQueue queue, const CullCounts* counts, uint32_t capacity) {
  const uint32_t count = filled(counts->nodes[0], capacity);
  *queue.state = {};
  queue.state->node_tail = queue.state->pending_nodes = count;
  queue.state->dropped_nodes = static_cast<uint32_t>(counts->nodes[0] - count);
}

template <class Queue>
DEV_KERNEL(persistent_threads)
traverse(CullPass pass, Queue queue) {
  using Worker = QueueWorker<Queue, DeviceWork>;
  static_assert(sizeof(Worker) % 8 == 0, "whole words");
  constexpr int words = sizeof(Worker) / 8;
  DEV_SHARED(uint64_t, memory, words* persistent_threads);
  Worker& worker =
      *new (memory + words * threadIdx.x) Worker(pass.capacity.nodes, pass.capacity.groups, device_batch);
  DeviceWork work{&pass};
  for (bool waited; worker.step(queue, work, waited);)
    if (waited) dev::pause();
  __syncwarp();
  work.report(*pass.counts);
}

}  // namespace nanite_cull::cuda
