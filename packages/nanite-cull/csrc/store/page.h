// A page of an .ncl file, decoded: immutable, kept alive by whoever draws from it.
#pragma once

#include <memory>

#include "build/asset.h"

namespace nanite_cull {

// The clusters of a page are one range of the asset's, and so are their vertices and triangles: every cluster
// has its own of both, in the order of Asset::vertex_refs and Asset::triangles.
struct Page : Vertices {
  std::vector<uint8_t> triangles;                 // three local indices each
  uint32_t vertex_begin = 0, triangle_begin = 0;  // of the first cluster

  ClusterGeometry geometry(const Cluster& c) const;
};

// Pages by number; null where none is.
using PageTable = std::vector<std::shared_ptr<const Page>>;

}  // namespace nanite_cull
