// The traversal level by level: all nodes of one depth, of all instances in all views, then those of the
// next; at last the groups that they led to. As many passes as the deepest tree has levels, and one more.
// Which candidates do not fit does not depend on the number of threads.
#pragma once

#include "cull/cull.h"

namespace nanite_cull {

// `fresh`: what workers begin as. Appends those that were at work.
void traverse_levels(const std::vector<uint64_t>& roots, const CullOptions& options,
                     const CullContext::Worker& fresh, std::vector<CullContext::Worker>& workers);

}  // namespace nanite_cull
