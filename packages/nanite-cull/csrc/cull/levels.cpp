#include "cull/levels.h"

#include <algorithm>

#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr int64_t chunk = 256;  // candidates of one worker

using Words = std::vector<uint64_t>;

// Appends what there is room for.
void append(const Words& from, uint64_t capacity, Words& to) {
  to.insert(to.end(), from.begin(), from.begin() + std::min<uint64_t>(from.size(), capacity - to.size()));
}

// Calls body(worker, first, last) for all of `candidates`, each chunk with a worker of its own.
template <class Body>
void for_chunks(const Words& candidates, int threads, const CullContext::Worker& fresh,
                std::vector<CullContext::Worker>& workers, Body&& body) {
  const auto count = static_cast<int64_t>(candidates.size());
  const size_t before = workers.size();
  workers.resize(before + (count + chunk - 1) / chunk, fresh);
  native::parallel_for(count, chunk, threads, [&](int64_t first, int64_t last) {
    body(workers[before + first / chunk], first, last);
  });
}

}  // namespace

void traverse_levels(const Words& roots, const CullOptions& options, const CullContext::Worker& fresh,
                     std::vector<CullContext::Worker>& workers) {
  struct Lists {
    Words nodes, groups;
  };
  Words nodes, groups;
  append(roots, options.max_candidate_nodes, nodes);
  while (!nodes.empty()) {
    std::vector<Lists> lists((nodes.size() + chunk - 1) / chunk);
    for_chunks(nodes, options.threads, fresh, workers,
               [&](CullContext::Worker& worker, int64_t first, int64_t last) {
                 Lists& out = lists[first / chunk];
                 Children found;
                 for (int64_t i = first; i < last; ++i) {
                   worker.visit(nodes[i], found);
                   out.nodes.insert(out.nodes.end(), found.node, found.node + found.nodes);
                   out.groups.insert(out.groups.end(), found.group, found.group + found.groups);
                 }
               });
    nodes.clear();
    for (const Lists& found : lists) {
      append(found.nodes, options.max_candidate_nodes, nodes);
      append(found.groups, options.max_candidate_clusters, groups);
    }
  }
  for_chunks(groups, options.threads, fresh, workers,
             [&](CullContext::Worker& worker, int64_t first, int64_t last) {
               for (int64_t i = first; i < last; ++i) worker.group(groups[i]);
             });
}

}  // namespace nanite_cull
