// Every structural promise of an asset, checked exhaustively.
#pragma once

#include <string>
#include <vector>

#include "build/asset.h"

namespace nanite_cull {

// Empty when all holds; else up to `limit` sentences that name the object and the broken promise.
std::vector<std::string> validate(const Asset& asset, size_t limit);

// The same of groups, clusters, bounds and hierarchy alone: the asset may have no vertices and triangles.
std::vector<std::string> validate_graph(const Asset& asset, size_t limit);

}  // namespace nanite_cull
