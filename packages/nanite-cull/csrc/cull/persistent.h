// The persistent traversal (Karis et al. 2021): workers take the nodes of all instances in all views from one
// queue and the groups from another until none is left (core/traversal_queue.h). On threads: the twin of what
// a device does.
#pragma once

#include "cull/cull.h"

namespace nanite_cull {

// `fresh`: what workers begin as. Appends those that were at work: `threads`, 0 for all. Which candidates do
// not fit the queue depends on who came first.
void traverse_persistent(AtomicQueue& queue, const std::vector<uint64_t>& roots, int threads,
                         const CullContext::Worker& fresh, std::vector<CullContext::Worker>& workers);

}  // namespace nanite_cull
