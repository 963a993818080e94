// What a built mesh is: a directed acyclic graph of clusters, and the tree over its groups.
//
// A cluster is at most 128 triangles. Clusters of one pass are put into groups; each group is simplified
// to about half and split again into clusters of the next pass. So a cluster has two LOD bounds: its own,
// which is the bound of the group that made it, and its parent's, which is the bound of the group that
// consumed it. A cut draws a cluster where its own error is small enough and its parent's is not
// (Karis, Stubbe, Wihlidal, "Nanite: A Deep Dive", SIGGRAPH 2021).
//
// All vertices, at every level, are vertices of the source: simplification only chooses among them.
#pragma once

#include <cstdint>

namespace nanite_cull {

constexpr int max_cluster_triangles = 128;  // 7 bits of the visibility buffer
constexpr int max_cluster_vertices = 255;   // local indices are bytes
constexpr int max_group_clusters = 48;      // a partition may exceed its target of 16 by a third
constexpr uint32_t none = 0xffffffffu;
constexpr float infinite_error = __builtin_inff();

struct Sphere {
  float x = 0, y = 0, z = 0, r = 0;
};

struct Box {
  float lo[3] = {0, 0, 0}, hi[3] = {0, 0, 0};
};

// What the level of detail is judged by: error in object units, and the sphere it is seen from.
struct LodBounds {
  Sphere sphere;
  float error = 0;
};

struct Cluster {
  uint32_t vertex_begin = 0;    // into Asset::vertex_refs
  uint32_t triangle_begin = 0;  // in triangles, into Asset::triangles
  uint16_t vertex_count = 0;
  uint16_t triangle_count = 0;
  uint32_t group = none;         // the group that consumes it
  uint32_t source_group = none;  // the group that made it; none: a leaf cluster, made of source triangles
  uint32_t level = 0;            // the pass that made it; 0: leaf
  float longest_edge = 0;        // object units
};

struct Group {
  LodBounds bounds;  // error is infinite for a terminal group: nothing coarser exists
  uint32_t cluster_begin = 0;
  uint32_t cluster_count = 0;
  uint32_t level = 0;  // the pass that consumed its clusters
};

// The one cluster that nothing coarser replaces; `cluster` is none where an asset has several.
struct RootCluster {
  LodBounds own;
  Box box;
  float longest_edge = 0;
  uint32_t cluster = none;
  uint32_t triangles = 0;
  uint32_t unused[2] = {};  // sixteen words: eight roots are read as two squares of eight by eight
};

// Eight children side by side, so that one AVX2 operation tests them all. Bounds are rounded outward:
// a node may be visited in vain, never skipped wrongly.
struct alignas(32) Node {
  float x[8], y[8], z[8], r[8];  // LOD sphere over the groups below
  float lo[3][8], hi[3][8];      // box of the geometry below
  float max_parent_error[8];     // a bfloat16 rounded up
  float min_own_error[8];        // a bfloat16 rounded down
  uint32_t child[8];             // a node; or leaf_bit | group; or none
};
constexpr uint32_t leaf_bit = 0x80000000u;

}  // namespace nanite_cull
