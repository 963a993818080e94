// The clusters of one pass while the graph is built: flat arrays, appended in a fixed order.
#pragma once

#include <cstdint>
#include <vector>

#include "build/asset.h"

namespace nanite_cull {

struct ClusterPool {
  struct Entry {
    uint32_t vertex_begin, triangle_begin;  // into vertices and, in triangles, into triangles
    uint16_t vertex_count, triangle_count;
    uint32_t source_group;
    uint32_t level;
    LodBounds own;
  };
  std::vector<Entry> entries;
  std::vector<uint32_t> vertices;  // wedges
  std::vector<uint8_t> triangles;  // three local indices each
  std::vector<uint32_t> sources;   // leaf pass only: the input face of each triangle
  std::vector<float> debts;        // of each triangle (certify.h); empty while all are zero

  size_t size() const { return entries.size(); }
  size_t triangle_total() const { return triangles.size() / 3; }

  void append(const ClusterPool& from, size_t index) {
    Entry entry = from.entries[index];
    const uint32_t* v = from.vertices.data() + entry.vertex_begin;
    const uint8_t* t = from.triangles.data() + size_t(entry.triangle_begin) * 3;
    if (!from.sources.empty()) {
      const uint32_t* s = from.sources.data() + entry.triangle_begin;
      sources.insert(sources.end(), s, s + entry.triangle_count);
    }
    take_debts(from, entry.triangle_begin, entry.triangle_count);
    entry.vertex_begin = static_cast<uint32_t>(vertices.size());
    entry.triangle_begin = static_cast<uint32_t>(triangle_total());
    vertices.insert(vertices.end(), v, v + entry.vertex_count);
    triangles.insert(triangles.end(), t, t + size_t(entry.triangle_count) * 3);
    entries.push_back(entry);
  }
  void append(const ClusterPool& from) {
    const uint32_t first_vertex = static_cast<uint32_t>(vertices.size()),
                   first_triangle = static_cast<uint32_t>(triangle_total());
    take_debts(from, 0, from.triangle_total());
    vertices.insert(vertices.end(), from.vertices.begin(), from.vertices.end());
    triangles.insert(triangles.end(), from.triangles.begin(), from.triangles.end());
    sources.insert(sources.end(), from.sources.begin(), from.sources.end());
    for (Entry entry : from.entries) {
      entry.vertex_begin += first_vertex, entry.triangle_begin += first_triangle;
      entries.push_back(entry);
    }
  }

 private:
  // Called before the triangles themselves are appended.
  void take_debts(const ClusterPool& from, size_t first, size_t count) {
    if (from.debts.empty() && debts.empty()) return;
    debts.resize(triangle_total(), 0.0f);
    if (from.debts.empty())
      debts.resize(triangle_total() + count, 0.0f);
    else
      debts.insert(debts.end(), from.debts.begin() + first, from.debts.begin() + first + count);
  }
};

// Splits triangles over local vertices into clusters: meshoptimizer's flexible builder. `to_wedge` maps
// local vertices to wedges; `sources` and `debts`, when given, hold one number for each triangle.
// Triangles are rotated so that their smallest local index comes first: one form for one triangle.
void split_into_clusters(const std::vector<uint32_t>& indices, const std::vector<float>& positions,
                         const std::vector<uint32_t>& to_wedge, const std::vector<uint32_t>* sources,
                         const std::vector<float>* debts, int max_triangles, ClusterPool& out);

// The smallest of a few cheap spheres around points given as (x, y, z) triples.
Sphere sphere_around(const float* points, const uint32_t* indices, size_t count);

// Fills in what follows from a cluster's record and the vertices: box, longest edge, and its own LOD bounds
// (the making group's, or for a leaf a sphere around its vertices and no error).
void measure_cluster(Asset& asset, uint32_t cluster);

// A sphere around spheres, larger than each by a relative margin of lod_margin.
Sphere sphere_around(const std::vector<Sphere>& spheres);

}  // namespace nanite_cull
