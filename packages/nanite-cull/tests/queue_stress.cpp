// Threads on one traversal (cull/atomic_queue.h), over random trees, at tiny capacities.
//
//   queue_stress FIRST_SEED RUNS THREADS BUG
//
// Every run is two passes over the same queue. Prints ok, or what went wrong: "lost", "twice", "garbage",
// "count", "hangs". Built with the thread sanitizer it also sees what is not ordered.
#include <cull/atomic_queue.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

using namespace nanite_cull;

namespace {

enum Bug { none_, relaxed_publish, missing_commit, lost_pending, no_overflow_exit, stale_after_clear };
const char* const bugs[] = {"none",         "relaxed_publish",  "missing_commit",
                            "lost_pending", "no_overflow_exit", "stale_after_clear"};
constexpr std::chrono::seconds patience(5);  // nobody having found anything to do: then it hangs

// What a node leads to is stored beside it by who publishes it, and read by who takes it: not ordered, it is
// a race that the sanitizer sees.
struct Node {
  uint32_t first_child = 0, children = 0, groups = 0, written = 0;
};
struct Tree {
  std::vector<Node> shape, live;
  std::vector<std::atomic<uint32_t>> visited, grouped;
  explicit Tree(std::mt19937& random) : visited(400), grouped(400 * 8) {
    shape.emplace_back(), shape.emplace_back();
    for (size_t i = 1; i < shape.size(); ++i) {
      const uint32_t children = shape.size() < 200 ? random() % 5 : 0;
      shape[i].first_child = static_cast<uint32_t>(shape.size()), shape[i].children = children;
      shape[i].groups = random() % 4;
      shape.resize(shape.size() + children);
    }
    live.resize(shape.size());
  }
};

struct Broken : AtomicQueue {
  using AtomicQueue::AtomicQueue;
  int bug = 0;

  uint32_t add(uint32_t QueueState::* counter, uint32_t n) {
    return AtomicQueue::add(counter,
                            bug == lost_pending && counter == &QueueState::pending_nodes ? n - 1 : n);
  }
  uint32_t retire(uint32_t n) {
    if (bug == relaxed_publish) return __atomic_fetch_sub(&state_.pending_nodes, n, __ATOMIC_RELAXED);
    if (bug == no_overflow_exit && state().dropped_nodes > 0) n -= 1;
    return AtomicQueue::retire(n);
  }
  uint32_t committed(uint32_t batch) {
    if (bug != missing_commit) return AtomicQueue::committed(batch);
    const int64_t reserved = int64_t(tail()) - int64_t(batch) * batch_;
    return reserved < 0 ? 0 : reserved < batch_ ? static_cast<uint32_t>(reserved) : batch_;
  }
  void publish(uint32_t slot, uint64_t word) {
    if (bug == relaxed_publish)
      __atomic_store_n(&nodes_[slot], word, __ATOMIC_RELAXED);
    else
      AtomicQueue::publish(slot, word);
  }
  void begin(const std::vector<uint64_t>& roots) {
    const std::vector<uint32_t> stale = committed_;
    AtomicQueue::begin(roots);
    if (bug == stale_after_clear) committed_ = stale;
  }
};

struct Work {
  Tree& tree;
  std::atomic<const char*>& wrong;
  std::atomic<uint64_t>& progress;

  void visit(uint64_t node, Children& out) {
    if (node == 0 || node >= tree.shape.size()) return void(wrong = "garbage");
    if (tree.visited[node].fetch_add(1, std::memory_order_relaxed) > 0) wrong = "twice";
    progress.fetch_add(1, std::memory_order_relaxed);
    const Node& mine = tree.live[node];
    for (uint32_t i = 0; i < mine.children; ++i) {
      tree.live[mine.first_child + i] = tree.shape[mine.first_child + i];
      out.node[out.nodes++] = mine.first_child + i;
    }
    for (uint32_t g = 0; g < mine.groups; ++g) out.group[out.groups++] = node * 8 + g;
  }
  void group(uint64_t group) {
    if (group < 8 || group / 8 >= tree.shape.size()) return void(wrong = "garbage");
    if (tree.grouped[group].fetch_add(1, std::memory_order_relaxed) > 0) wrong = "twice";
    progress.fetch_add(1, std::memory_order_relaxed);
  }
};

// One pass by `threads` workers; what went wrong, or null.
const char* pass(Broken& queue, Tree& tree, int threads) {
  std::atomic<const char*> wrong{nullptr};
  std::atomic<uint64_t> progress{0};  // visits and groups
  for (auto& count : tree.visited) count = 0;
  for (auto& count : tree.grouped) count = 0;
  tree.live[1] = tree.shape[1];
  queue.begin({1});
  std::atomic<int> started{0};
  auto run = [&](int self) {
    std::minstd_rand random(self + 1);
    for (started.fetch_add(1, std::memory_order_relaxed); started.load(std::memory_order_relaxed) < threads;)
      std::this_thread::yield();
    Work work{tree, wrong, progress};
    auto worker = queue.worker<Broken, Work>();
    uint64_t seen = 0;
    auto since = std::chrono::steady_clock::now();
    for (bool waited; worker.step(queue, work, waited);) {
      if (random() % 4 == 0) std::this_thread::yield();  // now and then anywhere: more orders are met
      if (!waited) continue;
      const uint64_t now = work.progress.load(std::memory_order_relaxed);
      if (now != seen) seen = now, since = std::chrono::steady_clock::now();
      if (std::chrono::steady_clock::now() - since > patience) return void(wrong = "hangs");
      std::this_thread::yield();
    }
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(run, t);
  run(0);
  for (std::thread& thread : pool) thread.join();
  if (wrong) return wrong;
  uint32_t visited = 0, grouped = 0, groups = 0;
  const auto nodes = static_cast<uint32_t>(tree.shape.size() - 1);
  for (const Node& node : tree.shape) groups += node.groups;
  for (const auto& count : tree.visited) visited += count;
  for (const auto& count : tree.grouped) grouped += count;
  const QueueState& state = queue.state();
  if ((visited < nodes) != (state.dropped_nodes > 0)) return state.dropped_nodes ? "count" : "lost";
  if (state.dropped_nodes == 0 && grouped + state.dropped_clusters != groups) return "lost";
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const int first = std::atoi(argv[1]), runs = std::atoi(argv[2]), threads = std::atoi(argv[3]);
  int bug = none_;
  for (int b = 0; b < 6; ++b)
    if (std::strcmp(argv[4], bugs[b]) == 0) bug = b;
  unsigned long long dropped = 0;
  for (int seed = first; seed < first + runs; ++seed) {
    std::mt19937 random(seed);
    Tree tree(random);
    const uint32_t batch = 1 + random() % 5;
    Broken queue(random() % 4 ? 1 + random() % 64 : 500, random() % 4 ? 1 + random() % 64 : 900, batch);
    queue.bug = bug;
    for (int again = 0; again < 2; ++again)
      if (const char* wrong = pass(queue, tree, threads)) {
        std::printf("seed %d: %s\n", seed, wrong);
        return 1;
      }
    dropped += queue.state().dropped_nodes + queue.state().dropped_clusters;
  }
  std::printf("ok, %llu dropped\n", dropped);
}
