// A built mesh in memory: the arrays behind the records of core/records.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/records.h"

namespace nanite_cull {

// Cluster bounds as the traversal reads them: one array for each component, so that the clusters of a
// group are tested eight at a time.
struct ClusterBounds {
  std::vector<float> lo[3], hi[3];       // geometry
  std::vector<float> x, y, z, r, error;  // own LOD bounds, the very bits of the group that made it
  void resize(size_t n) {
    for (int a = 0; a < 3; ++a) lo[a].resize(n), hi[a].resize(n);
    for (auto* v : {&x, &y, &z, &r, &error}) v->resize(n);
  }
};

struct BuildReport {
  uint64_t input_triangles = 0;
  uint64_t degenerate_triangles = 0;  // without area, dropped
  uint64_t vanished_triangles = 0;    // with an area that the grid has no room for, dropped
  uint64_t input_vertices = 0;
  uint64_t welded_positions = 0;
  uint64_t stuck_groups = 0;     // group attempts that could not be simplified
  uint64_t fallback_groups = 0;  // groups that needed the retry cascade
  uint64_t simplified_groups = 0;
  uint64_t measured_larger = 0;  // of these: whose measured error exceeds the simplifier's estimate
  double measured_ratio = 1;     // and by how many times at most
  uint64_t roots = 0;            // clusters that nothing coarser replaces
  uint64_t root_triangles = 0;
  float max_error = 0;
  double seconds_weld = 0, seconds_leaves = 0, seconds_levels = 0, seconds_hierarchy = 0;
};

// Vertices from an asset's origin: integers times `step`, exact in float; on open borders the source's
// floats.
struct Vertices {
  float step = 1, uv_step = 1;
  std::vector<float> positions;     // (V, 3)
  std::vector<float> normals;       // (V, 3) or empty
  std::vector<float> uvs;           // (V, 2) or empty
  std::vector<float> colors;        // (V, 4) or empty
  std::vector<uint32_t> materials;  // (V) or empty; a triangle's material is its first vertex's

  size_t vertex_count() const { return positions.size() / 3; }
};

// Where the vertices and triangles of one cluster lie.
struct ClusterGeometry {
  const Vertices* vertices;
  uint32_t base;  // local vertex i is base + refs[i] of the vertices
  const uint32_t* refs;
  const uint8_t* triangles;  // three local indices each

  uint32_t vertex(int local) const { return base + refs[local]; }
  const float* position(int local) const { return &vertices->positions[3 * size_t(vertex(local))]; }
};

class NclFile;
struct Requests;
struct Surfaces;

struct Asset : Vertices {
  double origin[3] = {0, 0, 0};
  // The open file whose pages hold the vertices and triangles, which then are not here; null: they are.
  std::shared_ptr<const NclFile> file;
  std::shared_ptr<const Surfaces> surfaces;  // null: no material has more than a colour
  Requests* requests = nullptr;  // of a file's asset while it is culled: where a traversal leaves its wishes

  // clusters: ordered by pass, inside a pass by group
  std::vector<uint32_t> vertex_refs;
  std::vector<uint8_t> triangles;     // three local indices each
  std::vector<uint32_t> leaf_source;  // source face of each leaf triangle; empty when not kept
  std::vector<Cluster> clusters;
  std::vector<Group> groups;
  ClusterBounds bounds;

  // hierarchy: nodes[0] is the root
  std::vector<Node> nodes;
  int width = 8;
  int depth = 0;
  Box box;
  Sphere sphere;
  uint32_t levels = 0;
  BuildReport report;

  size_t triangle_count() const { return triangles.size() / 3; }
  ClusterGeometry geometry(const Cluster& c) const {
    return {this, 0, &vertex_refs[c.vertex_begin], &triangles[3 * size_t(c.triangle_begin)]};
  }
};

}  // namespace nanite_cull
