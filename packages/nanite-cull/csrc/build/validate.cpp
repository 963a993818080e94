#include "build/validate.h"

#include <cmath>

#include "core/lod.h"

namespace nanite_cull {

namespace {

constexpr int deepest_tree = 32;

class Checker {
 public:
  Checker(const Asset& asset, size_t limit) : a_(asset), limit_(limit) {}

  // What does not need vertices and triangles.
  std::vector<std::string> graph() {
    records();
    if (!problems_.empty()) return problems_;  // what follows would read out of bounds
    for (uint32_t g = 0; g < a_.groups.size(); ++g) group(g);
    for (uint32_t c = 0; c < a_.clusters.size(); ++c) cluster(c);
    tree();
    return problems_;
  }
  std::vector<std::string> all() {
    graph();
    if (!problems_.empty()) return problems_;
    geometry();
    if (!problems_.empty()) return problems_;
    for (uint32_t c = 0; c < a_.clusters.size(); ++c) vertices_of(c);
    return problems_;
  }

 private:
  template <class... Parts>
  void expect(bool holds, const Parts&... parts) {
    if (holds || problems_.size() >= limit_) return;
    std::string text;
    ((text += text_of(parts)), ...);
    problems_.push_back(text);
  }
  static std::string text_of(const char* s) { return s; }
  template <class N>
  static std::string text_of(N n) {
    return std::to_string(n);
  }

  void records() {
    const size_t clusters = a_.clusters.size();
    expect(clusters > 0 && !a_.groups.empty() && !a_.nodes.empty(), "the asset is empty");
    for (const auto* array :
         {&a_.bounds.x, &a_.bounds.y, &a_.bounds.z, &a_.bounds.r, &a_.bounds.error, &a_.bounds.lo[0],
          &a_.bounds.lo[1], &a_.bounds.lo[2], &a_.bounds.hi[0], &a_.bounds.hi[1], &a_.bounds.hi[2]})
      expect(array->size() == clusters, "cluster bounds are not one for each cluster");
    uint64_t vertex = 0, triangle = 0;
    for (uint32_t c = 0; c < clusters; ++c) {
      const Cluster& k = a_.clusters[c];
      expect(k.vertex_begin == vertex && k.triangle_begin == triangle, "cluster ", c,
             " does not follow the one before");
      vertex += k.vertex_count, triangle += k.triangle_count;
      expect(k.triangle_count >= 1 && k.triangle_count <= max_cluster_triangles, "cluster ", c, " has ",
             k.triangle_count, " triangles");
      expect(k.vertex_count >= 3 && k.vertex_count <= max_cluster_vertices, "cluster ", c, " has ",
             k.vertex_count, " vertices");
      expect(k.group < a_.groups.size(), "cluster ", c, " names group ", k.group, ", which does not exist");
      expect(k.source_group == none || k.source_group < k.group, "cluster ", c,
             " is made by a group not before its own");
      expect(k.longest_edge >= 0 && k.longest_edge < infinite_error, "cluster ", c, " has no longest edge");
    }
    uint64_t next = 0;
    for (uint32_t g = 0; g < a_.groups.size(); ++g) {
      expect(a_.groups[g].cluster_begin == next && a_.groups[g].cluster_count > 0, "group ", g,
             " does not follow the one before");
      next += a_.groups[g].cluster_count;
    }
    expect(next == clusters, "groups own ", next, " clusters of ", clusters);
    for (int i = 0; i < 3; ++i)
      expect(std::isfinite(a_.origin[i]) && a_.origin[i] == std::nearbyint(a_.origin[i] / a_.step) * a_.step,
             "the origin is not on the mesh grid");
  }

  void geometry() {
    const size_t vertices = a_.vertex_count(), clusters = a_.clusters.size();
    expect(vertices > 0, "the asset has no vertices");
    expect(a_.positions.size() == 3 * vertices, "positions are not (V, 3)");
    expect(a_.normals.empty() || a_.normals.size() == 3 * vertices, "normals are not (V, 3)");
    expect(a_.uvs.empty() || a_.uvs.size() == 2 * vertices, "uvs are not (V, 2)");
    expect(a_.colors.empty() || a_.colors.size() == 4 * vertices, "colors are not (V, 4)");
    expect(a_.materials.empty() || a_.materials.size() == vertices, "materials are not (V)");
    expect(a_.leaf_source.size() <= a_.triangle_count(), "leaf_source is longer than the triangles");
    const Cluster& last = a_.clusters.back();
    expect(last.vertex_begin + uint64_t(last.vertex_count) == a_.vertex_refs.size(), "vertex_refs has ",
           a_.vertex_refs.size(), " entries, clusters use another number");
    expect((last.triangle_begin + uint64_t(last.triangle_count)) * 3 == a_.triangles.size(), "triangles has ",
           a_.triangles.size(), " entries, clusters use another number");
    if (!problems_.empty()) return;
    for (uint32_t v : a_.vertex_refs) expect(v < vertices, "vertex_refs names vertex ", v, " of ", vertices);
    for (uint32_t c = 0; c < clusters; ++c) {
      const Cluster& k = a_.clusters[c];
      const uint8_t* corner = &a_.triangles[3 * size_t(k.triangle_begin)];
      for (int i = 0; i < 3 * k.triangle_count; ++i)
        expect(corner[i] < k.vertex_count, "cluster ", c, " has a corner at local vertex ", int(corner[i]),
               " of ", k.vertex_count);
    }
    if (!problems_.empty()) return;
    const float largest = std::exp2(24.0f) * a_.step;
    for (size_t i = 0; i < a_.positions.size(); ++i)
      expect(std::fabs(a_.positions[i]) <= largest, "vertex ", i / 3, " is not on the mesh grid");
    if (!a_.materials.empty()) materials();
  }

  void materials() {
    for (uint32_t c = 0; c < a_.clusters.size(); ++c) {
      const Cluster& k = a_.clusters[c];
      const uint8_t* corner = &a_.triangles[3 * size_t(k.triangle_begin)];
      auto material = [&](int i) { return a_.materials[a_.vertex_refs[k.vertex_begin + corner[i]]]; };
      for (int t = 0; t < k.triangle_count; ++t, corner += 3)
        expect(material(0) == material(1) && material(1) == material(2), "cluster ", c,
               " has a triangle of several materials");
    }
  }

  // Contains by the margin that too_coarse() relies on.
  static bool contains(const Sphere& outer, const Sphere& inner) {
    const double x = double(outer.x) - inner.x, y = double(outer.y) - inner.y, z = double(outer.z) - inner.z;
    return std::sqrt(x * x + y * y + z * z) + inner.r <= outer.r * (1 - 0.5 * double(lod_margin));
  }
  Sphere own_sphere(uint32_t c) const {
    return {a_.bounds.x[c], a_.bounds.y[c], a_.bounds.z[c], a_.bounds.r[c]};
  }

  void group(uint32_t g) {
    const Group& group = a_.groups[g];
    expect(group.bounds.error > 0, "group ", g, " has no positive error");
    for (uint32_t c = group.cluster_begin; c < group.cluster_begin + group.cluster_count; ++c) {
      expect(a_.clusters[c].group == g, "cluster ", c, " lies in group ", g, " but names ",
             a_.clusters[c].group);
      expect(group.bounds.error >= a_.bounds.error[c] * (1 + lod_margin), "the error of group ", g,
             " does not exceed that of its cluster ", c);
      expect(contains(group.bounds.sphere, own_sphere(c)), "the LOD sphere of group ", g,
             " does not contain that of its cluster ", c);
    }
  }

  void cluster(uint32_t c) {
    const Cluster& k = a_.clusters[c];
    const Sphere own = own_sphere(c);
    if (k.source_group == none) {
      expect(a_.bounds.error[c] == 0 && k.level == 0, "leaf cluster ", c, " has an error or a level");
    } else {
      const LodBounds& b = a_.groups[k.source_group].bounds;
      expect(own.x == b.sphere.x && own.y == b.sphere.y && own.z == b.sphere.z && own.r == b.sphere.r &&
                 a_.bounds.error[c] == b.error,
             "cluster ", c, " does not carry the bits of group ", k.source_group);
    }
  }

  void vertices_of(uint32_t c) {
    const Cluster& k = a_.clusters[c];
    const Sphere own = own_sphere(c);
    for (int v = 0; v < k.vertex_count; ++v) {
      const float* p = &a_.positions[3 * size_t(a_.vertex_refs[k.vertex_begin + v])];
      const double x = double(p[0]) - own.x, y = double(p[1]) - own.y, z = double(p[2]) - own.z;
      expect(std::sqrt(x * x + y * y + z * z) <= own.r, "vertex ", v, " of cluster ", c,
             " lies outside its LOD sphere");
      for (int a = 0; a < 3; ++a)
        expect(p[a] >= a_.bounds.lo[a][c] && p[a] <= a_.bounds.hi[a][c], "vertex ", v, " of cluster ", c,
               " lies outside its box");
    }
  }

  void tree() {
    visited_.assign(a_.nodes.size(), 0);
    owned_.assign(a_.groups.size(), 0);
    node(0, 1);
    for (uint32_t n = 0; n < visited_.size(); ++n)
      expect(visited_[n] == 1, "node ", n, " is reached ", int(visited_[n]), " times");
    for (uint32_t g = 0; g < owned_.size(); ++g)
      expect(owned_[g] == 1, "group ", g, " is reached ", int(owned_[g]), " times");
  }

  void node(uint32_t n, int depth) {
    expect(n < a_.nodes.size(), "a node names child ", n, ", which does not exist");
    expect(depth <= deepest_tree, "the tree is deeper than ", deepest_tree);
    if (n >= a_.nodes.size() || depth > deepest_tree || visited_[n]++) return;
    const Node& node = a_.nodes[n];
    for (int i = 0; i < 8; ++i) {
      const uint32_t child = node.child[i];
      expect(child == none || i < a_.width, "node ", n, " has more than ", a_.width, " children");
      if (child == none) continue;
      if (child & leaf_bit)
        leaf(n, i, child & ~leaf_bit);
      else
        inner(n, i, child, depth);
    }
  }

  void leaf(uint32_t n, int i, uint32_t g) {
    expect(g < a_.groups.size(), "node ", n, " names group ", g, ", which does not exist");
    if (g >= a_.groups.size()) return;
    ++owned_[g];
    const Group& group = a_.groups[g];
    float finest = infinite_error;
    for (uint32_t c = group.cluster_begin; c < group.cluster_begin + group.cluster_count; ++c) {
      finest = std::fmin(finest, a_.bounds.error[c]);
      Box box;
      for (int a = 0; a < 3; ++a) box.lo[a] = a_.bounds.lo[a][c], box.hi[a] = a_.bounds.hi[a][c];
      outward(n, i, group.bounds.sphere, box, group.bounds.error, finest);
    }
  }

  void inner(uint32_t n, int i, uint32_t child, int depth) {
    node(child, depth + 1);
    if (child >= a_.nodes.size()) return;
    const Node& below = a_.nodes[child];
    for (int k = 0; k < 8; ++k) {
      if (below.child[k] == none) continue;
      Box box;
      for (int a = 0; a < 3; ++a) box.lo[a] = below.lo[a][k], box.hi[a] = below.hi[a][k];
      outward(n, i, {below.x[k], below.y[k], below.z[k], below.r[k]}, box, below.max_parent_error[k],
              below.min_own_error[k]);
    }
  }

  void outward(uint32_t n, int i, const Sphere& sphere, const Box& box, float most, float least) {
    const Node& node = a_.nodes[n];
    expect(contains({node.x[i], node.y[i], node.z[i], node.r[i]}, sphere), "child ", i, " of node ", n,
           " has too small a sphere");
    for (int a = 0; a < 3; ++a)
      expect(node.lo[a][i] <= box.lo[a] && node.hi[a][i] >= box.hi[a], "child ", i, " of node ", n,
             " has too small a box");
    expect(node.max_parent_error[i] >= most, "child ", i, " of node ", n, " has too small a parent error");
    expect(node.min_own_error[i] <= least, "child ", i, " of node ", n, " has too large an own error");
  }

  const Asset& a_;
  size_t limit_;
  std::vector<std::string> problems_;
  std::vector<uint8_t> visited_, owned_;
};

}  // namespace

std::vector<std::string> validate(const Asset& asset, size_t limit) { return Checker(asset, limit).all(); }

std::vector<std::string> validate_graph(const Asset& asset, size_t limit) {
  return Checker(asset, limit).graph();
}

}  // namespace nanite_cull
