// Workers of several blocks at one queue, over random trees, at tiny capacities: the protocol of the
// persistent traversal on a device's memory, right (traversal.cpp) or with a mistake (seeded/traversal.cpp).
#pragma once

#include <cull/device_queue.cuh>

#include <algorithm>
#include <new>
#include <random>
#include <vector>

#include "cusim_test.h"

namespace gpu = nanite_cull::cuda;
using namespace nanite_cull;
using cusim::Buffer;

namespace walk {

constexpr int threads = 8, blocks = 3;

// What a node leads to is stored beside it by who publishes it and read by who takes it: not ordered, it is a
// race.
struct Node {
  uint32_t first_child, children, groups;
};

struct Tree {
  const Node* shape;
  Node* live;
  uint32_t *visited, *grouped;  // grouped: eight of a node
  uint32_t size;
};

struct Work {
  Tree tree;

  DEV_FN void visit(uint64_t node, Children& out) {
    out.nodes = out.groups = 0;
    DEV_ASSERT(node > 0 && node < tree.size);
    atomicAdd(tree.visited + node, 1u);
    const Node mine = tree.live[node];
    for (uint32_t i = 0; i < mine.children; ++i) {
      tree.live[mine.first_child + i] = tree.shape[mine.first_child + i];
      out.node[out.nodes++] = mine.first_child + i;
    }
    for (uint32_t g = 0; g < mine.groups; ++g) out.group[out.groups++] = node * 8 + g;
  }
  DEV_FN void group(uint64_t group) {
    DEV_ASSERT(group >= 8 && group / 8 < tree.size);
    atomicAdd(tree.grouped + group, 1u);
  }
};

DEV_KERNEL(1) begin_walk(gpu::DeviceQueue queue, Tree tree) {
  *queue.state = {};
  queue.state->node_tail = queue.state->pending_nodes = 1;
  queue.nodes[0] = 1;
  tree.live[1] = tree.shape[1];
}

template <class Queue>
DEV_KERNEL(threads)
go(Queue queue, Tree tree, uint32_t nodes, uint32_t clusters, uint32_t batch) {
  using Worker = QueueWorker<Queue, Work>;
  DEV_SHARED(uint64_t, memory, sizeof(Worker) / 8 * threads);
  Worker& worker = *new (memory + sizeof(Worker) / 8 * threadIdx.x) Worker(nodes, clusters, batch);
  Work work{tree};
  for (bool waited; worker.step(queue, work, waited);)
    if (waited) dev::pause();
}

inline std::vector<Node> random_tree(std::mt19937& random, uint32_t size) {
  std::vector<Node> tree(2);
  for (size_t i = 1; i < tree.size(); ++i) {
    const uint32_t children = tree.size() < size ? random() % 5 : 0;
    tree[i] = {static_cast<uint32_t>(tree.size()), children, static_cast<uint32_t>(random() % 4)};
    tree.resize(tree.size() + children);
  }
  return tree;
}

inline uint32_t sum(const std::vector<uint32_t>& values) {
  uint32_t out = 0;
  for (const uint32_t value : values) out += value;
  return out;
}

// Two passes over one queue. `room`: 0 for all that the tree needs. `make` makes the queue of its memory;
// `stale`: commits are not cleared between the passes.
template <class Make>
void check(cusim::Device& device, uint32_t room, uint32_t batch, Make&& make, bool stale = false) {
  std::mt19937 random(static_cast<unsigned>(device.config.seed));
  const std::vector<Node> tree = random_tree(random, 60);
  const auto size = static_cast<uint32_t>(tree.size());
  const uint32_t nodes = room ? room : size, clusters = room ? room : 4 * size;
#if !defined(CUSIM_ON_DEVICE)
  device.config.max_yields = 400000;
#endif
  Buffer<Node> shape(tree), live(tree.size());
  Buffer<QueueState> state(1);
  Buffer<uint64_t> node_slots(nodes), cluster_slots(clusters);
  Buffer<uint32_t> commits((clusters - 1) / batch + 1);
  uint32_t groups = 0;
  for (const Node& node : tree) groups += node.groups;
  for (int pass = 0; pass < 2; ++pass) {
    Buffer<uint32_t> visited(size, 0u), grouped(8 * tree.size(), 0u);
    const Tree seen{shape.data(), live.data(), visited.data(), grouped.data(), size};
    const gpu::DeviceQueue memory{state.data(), node_slots.data(), cluster_slots.data(), commits.data()};
    const auto queue = make(memory);
    dev::fill_bytes(node_slots.data(), 0xff, nodes * 8, &device);
    if (pass == 0 || !stale) dev::fill_bytes(commits.data(), 0, commits.size() * 4, &device);
    dev::launch(begin_walk, 1, 1, 0, &device, memory, seen);
    dev::launch(go<std::decay_t<decltype(queue)>>, blocks, threads, 0, &device, queue, seen, nodes, clusters,
                batch);
    device.wait();
    const QueueState end = state.host()[0];
    const std::vector<uint32_t> visits = visited.host(), group_visits = grouped.host();
    CUSIM_REQUIRE(*std::max_element(visits.begin(), visits.end()) <= 1);
    CUSIM_REQUIRE(*std::max_element(group_visits.begin(), group_visits.end()) <= 1);
    CUSIM_REQUIRE(end.pending_nodes == 0);
    CUSIM_REQUIRE((sum(visits) < size - 1) == (end.dropped_nodes > 0));
    if (end.dropped_nodes == 0) CUSIM_REQUIRE(sum(group_visits) + end.dropped_clusters == groups);
    CUSIM_REQUIRE(room > 0 || end.dropped_nodes + end.dropped_clusters == 0);
    CUSIM_REQUIRE(room != 1 || end.dropped_nodes > 0 || size == 2);
  }
}

}  // namespace walk
