// Every order of every step of workers that share one traversal (core/traversal_queue.h): an explicit-state
// model check. Plain and relaxed writes may be seen late: they wait in a buffer of their worker, leave it at
// any time, and must have left it at its next release.
//
//   queue_model WORKERS NODE_CAPACITY CLUSTER_CAPACITY BATCH TREE BUG
//
// Prints the number of states, and ok or what is wrong: "lost", "twice", "garbage", "hangs", "count".
#include <core/traversal_queue.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

using namespace nanite_cull;

namespace {

constexpr uint32_t none = ~0u;
constexpr int most_workers = 4, most_slots = 6, most_late = 4;

// What each node leads to; nodes and groups have numbers from 1.
struct Tree {
  std::vector<std::vector<int>> nodes, groups;
  int group_count;
};
const Tree trees[] = {
    {{{}, {2, 3}, {}, {}}, {{}, {}, {1}, {2}}, 2},  // two producers at once
    {{{}, {2}, {3}, {}}, {{}, {1}, {2}, {3}}, 3},   // a chain
    {{{}, {2, 3}, {}, {4}, {}}, {{}, {1}, {}, {2, 3}, {4}}, 4},
    {{{}, {2, 3}, {}, {}}, {{}, {}, {1, 2}, {3}}, 3},
};
const char* const bugs[] = {"none",         "relaxed_publish",  "missing_commit",
                            "lost_pending", "no_overflow_exit", "stale_after_clear"};
enum Bug { none_, relaxed_publish, missing_commit, lost_pending, no_overflow_exit, stale_after_clear };

struct Late {
  uint32_t kind, slot;  // 1: a cluster's word, 2: a node's
  uint64_t value;
};
struct State {
  QueueState queue;
  uint64_t nodes[most_slots], clusters[most_slots];
  uint32_t committed[most_slots], visited[most_slots], grouped[most_slots];
  uint32_t done, run;
  Late late[most_workers][most_late];
};

int workers_ = 2, bug_ = 0;
uint32_t node_capacity_ = 2, cluster_capacity_ = 2, batch_ = 1;
const Tree* tree_ = nullptr;
std::string wrong_;

struct Model {
  State& s;
  int self;

  void put(const Late& l) { (l.kind == 1 ? s.clusters : s.nodes)[l.slot] = l.value; }
  void later(uint32_t kind, uint32_t slot, uint64_t value) {
    for (Late& l : s.late[self])
      if (l.kind == 0) {
        l = {kind, slot, value};
        return;
      }
    put({kind, slot, value});
  }
  void release() {
    if (bug_ == relaxed_publish) return;
    for (Late& l : s.late[self])
      if (l.kind) put(l), l = {};
  }

  uint32_t add(uint32_t QueueState::* counter, uint32_t n) {
    const uint32_t old = s.queue.*counter;
    if (bug_ == lost_pending && counter == &QueueState::pending_nodes) n -= 1;
    s.queue.*counter += n;
    return old;
  }
  uint32_t retire(uint32_t n) {
    release();
    if (bug_ == no_overflow_exit && s.queue.dropped_nodes > 0) n -= 1;  // stays pending
    const uint32_t old = s.queue.pending_nodes;
    s.queue.pending_nodes -= n;
    return old;
  }
  uint32_t pending() { return s.queue.pending_nodes; }
  uint32_t tail() { return s.queue.cluster_tail; }
  uint64_t node(uint32_t slot) { return s.nodes[slot]; }
  void publish(uint32_t slot, uint64_t word) {
    release();
    if (bug_ == relaxed_publish)
      later(2, slot, word);
    else
      s.nodes[slot] = word;
  }
  void write_cluster(uint32_t slot, uint64_t word) { later(1, slot, word); }
  uint64_t read_cluster(uint32_t slot) { return s.clusters[slot]; }
  void commit(uint32_t batch, uint32_t n) { release(), s.committed[batch] += n; }
  uint32_t committed(uint32_t batch) {
    if (bug_ != missing_commit) return s.committed[batch];
    const int64_t reserved = int64_t(s.queue.cluster_tail) - int64_t(batch) * batch_;
    return reserved < 0 ? 0 : reserved < batch_ ? static_cast<uint32_t>(reserved) : batch_;
  }
};

struct Work {
  State& s;
  void visit(uint64_t node, Children& out) {
    if (node == 0 || node >= tree_->nodes.size()) return void(wrong_ = "garbage");
    if (++s.visited[node] > 1) wrong_ = "twice";
    for (int n : tree_->nodes[node]) out.node[out.nodes++] = n;
    for (int g : tree_->groups[node]) out.group[out.groups++] = g;
  }
  void group(uint64_t group) {
    if (group == 0 || group > uint64_t(tree_->group_count)) return void(wrong_ = "garbage");
    if (++s.grouped[group] > 1) wrong_ = "twice";
  }
};
using Worker = QueueWorker<Model, Work>;

struct World {
  State s;
  Worker w[most_workers];
  World() : s(), w{fresh(), fresh(), fresh(), fresh()} {}
  static Worker fresh() { return Worker(node_capacity_, cluster_capacity_, batch_); }
  std::string key() const { return std::string(reinterpret_cast<const char*>(this), sizeof *this); }
};
static_assert(std::is_trivially_copyable<World>::value, "states are compared as bytes");
static_assert(std::has_unique_object_representations_v<World>, "states have no padding");

void clear(World& world, bool first) {
  State& s = world.s;
  const uint32_t stale = !first && bug_ == stale_after_clear;
  for (uint32_t i = 0; i < most_slots; ++i) {
    s.nodes[i] = empty_slot;
    if (!stale) s.committed[i] = 0;
  }
  for (uint32_t i = 0; i < most_slots; ++i) s.clusters[i] = s.visited[i] = s.grouped[i] = 0;
  s.queue = {};
  s.nodes[0] = 1, s.queue.node_tail = s.queue.pending_nodes = 1;
  s.done = 0, ++s.run;
  for (Worker& w : world.w) w = World::fresh();
}

// The end of a pass: all that could be reached was, once.
void check_end(const State& s) {
  uint32_t visited = 0, grouped = 0, nodes = 0, groups = 0;
  for (size_t i = 1; i < tree_->nodes.size(); ++i) ++nodes, visited += s.visited[i];
  for (int i = 1; i <= tree_->group_count; ++i) ++groups, grouped += s.grouped[i];
  if (s.queue.dropped_nodes == 0 && visited != nodes) wrong_ = "lost";
  if (s.queue.dropped_nodes + s.queue.dropped_clusters == 0 && grouped != groups) wrong_ = "lost";
  if ((visited < nodes) != (s.queue.dropped_nodes > 0)) wrong_ = "count";
  if (s.queue.dropped_nodes == 0 && grouped + s.queue.dropped_clusters != groups) wrong_ = "count";
}

bool late(const State& s) {
  for (int w = 0; w < workers_; ++w)
    for (const Late& l : s.late[w])
      if (l.kind) return true;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  workers_ = std::atoi(argv[1]), node_capacity_ = std::atoi(argv[2]);
  cluster_capacity_ = std::atoi(argv[3]), batch_ = std::atoi(argv[4]);
  tree_ = &trees[std::atoi(argv[5])];
  for (int b = 0; b < 6; ++b)
    if (std::strcmp(argv[6], bugs[b]) == 0) bug_ = b;

  std::unordered_map<std::string, uint32_t> seen;
  std::vector<std::vector<uint32_t>> from;  // who leads to a state
  std::vector<World> open;
  std::vector<uint32_t> open_id, ends;
  World first;
  clear(first, true);
  auto reach = [&](const World& world, uint32_t before) {
    const auto [it, fresh] = seen.emplace(world.key(), static_cast<uint32_t>(seen.size()));
    if (fresh) from.emplace_back(), open.push_back(world), open_id.push_back(it->second);
    if (before != none) from[it->second].push_back(before);
  };
  reach(first, none);
  while (!open.empty() && wrong_.empty()) {
    const World world = open.back();
    const uint32_t id = open_id.back();
    open.pop_back(), open_id.pop_back();
    for (int w = 0; w < workers_ && wrong_.empty(); ++w) {
      for (int l = 0; l < most_late; ++l)
        if (world.s.late[w][l].kind) {
          World next = world;
          Model{next.s, w}.put(next.s.late[w][l]);
          next.s.late[w][l] = {};
          reach(next, id);
        }
      if (world.s.done >> w & 1) continue;
      World next = world;
      Model memory{next.s, w};
      Work work{next.s};
      bool waited;
      if (!next.w[w].step(memory, work, waited)) next.s.done |= 1u << w;
      reach(next, id);
    }
    if (wrong_.empty() && world.s.done == (1u << workers_) - 1 && !late(world.s)) {
      check_end(world.s);
      if (world.s.run == 1) {
        World again = world;
        clear(again, false);
        reach(again, id);
      } else {
        ends.push_back(id);
      }
    }
  }
  if (wrong_.empty()) {  // every state leads to an end
    std::vector<char> ends_well(seen.size());
    std::vector<uint32_t> back = ends;
    for (uint32_t e : ends) ends_well[e] = 1;
    while (!back.empty()) {
      const uint32_t id = back.back();
      back.pop_back();
      for (uint32_t b : from[id])
        if (!ends_well[b]) ends_well[b] = 1, back.push_back(b);
    }
    for (char well : ends_well)
      if (!well) wrong_ = "hangs";
  }
  std::printf("%zu states: %s\n", seen.size(), wrong_.empty() ? "ok" : wrong_.c_str());
}
