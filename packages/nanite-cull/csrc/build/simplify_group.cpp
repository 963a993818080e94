#include "build/simplify_group.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "build/certify.h"
#include "build/key_table.h"
#include "build/local_ids.h"
#include "build/meshopt_api.h"
#include "build/srgb.h"
#include "core/lod.h"

namespace nanite_cull {

namespace {

constexpr double accepted_share = 0.85;        // of the triangles may be left, else the group is stuck
constexpr float smallest_error = 1.0f / 1024;  // grid steps: keeps level 1 above the leaves' zero

// The joined triangles of a group over local vertices.
struct Patch {
  std::vector<uint32_t> indices;
  std::vector<float> debts;  // of the triangles; empty: none
  std::vector<uint32_t> to_wedge, to_position;
  std::vector<float> positions;
  std::vector<uint8_t> lock;

  const float* at(uint32_t vertex) const { return &positions[3 * size_t(vertex)]; }
};

Patch join(const WeldedMesh& mesh, const ClusterPool& pool, const uint32_t* members, size_t count,
           const std::vector<uint8_t>& locked) {
  size_t vertices = 0, triangles = 0;
  for (size_t i = 0; i < count; ++i) {
    vertices += pool.entries[members[i]].vertex_count;
    triangles += pool.entries[members[i]].triangle_count;
  }
  Patch patch;
  LocalIds ids(vertices);
  patch.indices.reserve(triangles * 3);
  patch.to_wedge.reserve(vertices);
  uint32_t local[max_cluster_vertices + 1];
  for (size_t i = 0; i < count; ++i) {
    const ClusterPool::Entry& c = pool.entries[members[i]];
    for (int v = 0; v < c.vertex_count; ++v)
      local[v] = ids.find_or_add(pool.vertices[c.vertex_begin + v], patch.to_wedge);
    const uint8_t* corner = pool.triangles.data() + size_t(c.triangle_begin) * 3;
    for (int k = 0; k < c.triangle_count * 3; ++k) patch.indices.push_back(local[corner[k]]);
    if (!pool.debts.empty())
      patch.debts.insert(patch.debts.end(), pool.debts.begin() + c.triangle_begin,
                         pool.debts.begin() + c.triangle_begin + c.triangle_count);
  }
  patch.positions.reserve(patch.to_wedge.size() * 3);
  for (uint32_t wedge : patch.to_wedge) {
    for (int a = 0; a < 3; ++a) patch.positions.push_back(mesh.positions[3 * size_t(wedge) + a] * mesh.unit);
    patch.to_position.push_back(mesh.position(wedge));
    patch.lock.push_back(locked[mesh.position(wedge)]);
  }
  return patch;
}

// Attributes of the patch's vertices side by side, and the weight of each.
struct Attributes {
  std::vector<float> values, weights;
};

// A colour's r, g, b, a, the first three as a display is sent them.
void put_color(const WeldedMesh& mesh, uint32_t wedge, const BuildOptions& options, std::vector<float>& out) {
  const uint32_t material = mesh.materials.empty() ? 0 : mesh.materials[wedge];
  const bool linear = material < options.linear_colors.size() && options.linear_colors[material];
  const float* const color = &mesh.colors[4 * size_t(wedge)];
  for (int c = 0; c < 3; ++c) out.push_back(linear ? display_of(color[c]) : color[c]);
  out.push_back(color[3]);
}

Attributes attributes_of(const WeldedMesh& mesh, const Patch& patch, const BuildOptions& options) {
  Attributes out;
  auto weigh = [&](const std::vector<float>& values, int width, float weight) {
    if (!values.empty()) out.weights.insert(out.weights.end(), width, weight);
  };
  weigh(mesh.normals, 3, options.normal_weight);
  weigh(mesh.uvs, 2, options.uv_weight);
  weigh(mesh.colors, 4, options.color_weight);
  if (out.weights.empty()) return out;
  for (uint32_t wedge : patch.to_wedge) {
    auto put = [&](const std::vector<float>& values, int width) {
      if (!values.empty())
        out.values.insert(out.values.end(), &values[size_t(wedge) * width],
                          &values[size_t(wedge) * width] + width);
    };
    put(mesh.normals, 3);
    put(mesh.uvs, 2);
    if (!mesh.colors.empty()) put_color(mesh, wedge, options, out.values);
  }
  return out;
}

// Simplifies in place; returns the error in the patch's units.
float simplify(Patch& patch, const Attributes& attributes, size_t target, unsigned options) {
  std::vector<uint32_t> out(patch.indices.size());
  float error = 0;
  const size_t width = attributes.weights.size();
  const size_t count =
      meshopt().simplify(out.data(), patch.indices.data(), patch.indices.size(), patch.positions.data(),
                         patch.to_wedge.size(), 3 * sizeof(float), width ? attributes.values.data() : nullptr,
                         width * sizeof(float), width ? attributes.weights.data() : nullptr, width,
                         patch.lock.data(), target, 1e30f, simplify_error_absolute | options, &error);
  out.resize(count);
  patch.indices.swap(out);
  return error;
}

// Directed edges by position that have no opposite.
using Border = std::map<std::pair<uint32_t, uint32_t>, int>;

Border border_of(const Patch& patch) {
  Border balance;
  for (size_t i = 0; i < patch.indices.size(); i += 3)
    for (int c = 0; c < 3; ++c) {
      const uint32_t a = patch.indices[i + c], b = patch.indices[i + (c + 1) % 3];
      const uint32_t p = patch.to_position[a], q = patch.to_position[b];
      balance[{std::min(p, q), std::max(p, q)}] += p < q ? 1 : -1;
    }
  for (auto i = balance.begin(); i != balance.end();) i = i->second == 0 ? balance.erase(i) : std::next(i);
  return balance;
}

// Whether a simplified patch still fits its neighbours: every edge that another group may share (both ends
// locked) is as it was. A new border edge is the surface's own, shortened, and can only arise where it had
// one.
class SeamCheck {
 public:
  explicit SeamCheck(const Patch& before) {
    for (uint32_t v = 0; v < before.to_wedge.size(); ++v)
      if (before.lock[v]) locked_.push_back(before.to_position[v]);
    std::sort(locked_.begin(), locked_.end());
    for (const auto& edge : border_of(before)) {
      if (is_locked(edge.first.first) && is_locked(edge.first.second))
        seam_.insert(edge);
      else
        open_ = true;
    }
  }
  bool fits(const Patch& after) const {
    Border left = border_of(after);
    for (const auto& [edge, count] : seam_) {
      const auto found = left.find(edge);
      if (found == left.end() || found->second != count) return false;
      left.erase(found);
    }
    return open_ || left.empty();
  }

 private:
  bool is_locked(uint32_t position) const {
    return std::binary_search(locked_.begin(), locked_.end(), position);
  }
  std::vector<uint32_t> locked_;
  Border seam_;
  bool open_ = false;
};

// One vertex for each position, or for each material at a position: what attribute seams would pin can move.
Patch by_position(const WeldedMesh& mesh, const Patch& patch, bool materials) {
  Patch out;
  KeyTable ids(patch.to_wedge.size(), 2);
  std::vector<uint32_t> keys, local(patch.to_wedge.size());
  for (uint32_t v = 0; v < patch.to_wedge.size(); ++v) {
    const uint32_t wedge = patch.to_wedge[v];
    const uint32_t key[2] = {patch.to_position[v], materials ? mesh.materials[wedge] : 0};
    local[v] = ids.find_or_add(key, keys);
    if (local[v] < out.to_wedge.size()) continue;
    out.to_wedge.push_back(wedge), out.to_position.push_back(patch.to_position[v]);
    out.positions.insert(out.positions.end(), patch.at(v), patch.at(v) + 3);
    out.lock.push_back(patch.lock[v]);
  }
  for (uint32_t v : patch.indices) out.indices.push_back(local[v]);
  return out;
}

// Gives the corners of triangles that were simplified by position wedges of one material, of those the ones
// whose normals are nearest to the triangle's. Where the corners have no material in common the triangle
// takes one that most of them have, and the others get a new wedge of it.
class WedgeChooser {
 public:
  WedgeChooser(const WeldedMesh& mesh, const Patch& original) : mesh_(mesh), original_(original) {
    for (uint32_t v = 0; v < original.to_wedge.size(); ++v) at_[original.to_position[v]].push_back(v);
  }

  // `fixed`: a triangle's material is that of its merged vertices.
  void choose(const Patch& merged, bool fixed, Patch& out, std::vector<NewWedge>& made) const {
    out = original_;
    out.indices.clear(), out.debts.clear(), made.clear();
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> added;  // (position, material) -> local vertex
    for (size_t i = 0; i < merged.indices.size(); i += 3) {
      const uint32_t* v = &merged.indices[i];
      float n[3];
      normal(merged, v, n);
      const uint32_t material = fixed ? merged_material(merged, v[0]) : best_material(merged, v, n);
      for (int c = 0; c < 3; ++c) {
        float sum = 0;
        uint32_t corner = nearest(merged, v[c], material, n, sum);
        if (corner == none) {
          const auto [at, is_new] = added.insert({{merged.to_position[v[c]], material}, 0});
          if (is_new) {
            const uint32_t base = candidates(merged, v[c])[0];
            at->second = static_cast<uint32_t>(out.to_wedge.size());
            out.to_wedge.push_back(static_cast<uint32_t>(mesh_.wedge_count() + made.size()));
            out.to_position.push_back(original_.to_position[base]);
            out.positions.insert(out.positions.end(), original_.at(base), original_.at(base) + 3);
            out.lock.push_back(original_.lock[base]);
            made.push_back({original_.to_wedge[base], material});
          }
          corner = at->second;
        }
        out.indices.push_back(corner);
      }
    }
  }

 private:
  const std::vector<uint32_t>& candidates(const Patch& merged, uint32_t vertex) const {
    return at_.at(merged.to_position[vertex]);
  }
  // What most corners have; of those, where the normals fit the triangle's best.
  uint32_t best_material(const Patch& merged, const uint32_t* corner, const float* n) const {
    uint32_t best = 0;
    int most_corners = 0;
    float best_sum = -infinite_error;
    for (int c = 0; c < 3; ++c)
      for (uint32_t candidate : candidates(merged, corner[c])) {
        const uint32_t material = material_of(candidate);
        float sum = 0;
        int corners = 0;
        for (int d = 0; d < 3; ++d) corners += nearest(merged, corner[d], material, n, sum) != none;
        if (corners > most_corners || (corners == most_corners && sum > best_sum))
          best = material, most_corners = corners, best_sum = sum;
      }
    return best;
  }
  uint32_t material_of(uint32_t vertex) const {
    return mesh_.materials.empty() ? 0 : mesh_.materials[original_.to_wedge[vertex]];
  }
  uint32_t merged_material(const Patch& merged, uint32_t vertex) const {
    return mesh_.materials.empty() ? 0 : mesh_.materials[merged.to_wedge[vertex]];
  }
  static void normal(const Patch& patch, const uint32_t* corner, float* n) {
    const float *p = patch.at(corner[0]), *q = patch.at(corner[1]), *r = patch.at(corner[2]);
    float u[3], v[3];
    for (int a = 0; a < 3; ++a) u[a] = q[a] - p[a], v[a] = r[a] - p[a];
    n[0] = u[1] * v[2] - u[2] * v[1], n[1] = u[2] * v[0] - u[0] * v[2], n[2] = u[0] * v[1] - u[1] * v[0];
  }
  uint32_t nearest(const Patch& merged, uint32_t vertex, uint32_t material, const float* n,
                   float& sum) const {
    uint32_t best = none;
    float best_dot = -infinite_error;
    for (uint32_t candidate : candidates(merged, vertex)) {
      if (material_of(candidate) != material) continue;
      float dot = 0;
      if (!mesh_.normals.empty()) {
        const float* m = &mesh_.normals[3 * size_t(original_.to_wedge[candidate])];
        dot = m[0] * n[0] + m[1] * n[1] + m[2] * n[2];
      }
      if (dot > best_dot) best = candidate, best_dot = dot;
    }
    if (best != none) sum += best_dot;
    return best;
  }

  const WeldedMesh& mesh_;
  const Patch& original_;
  std::map<uint32_t, std::vector<uint32_t>> at_;  // position -> local vertices of the original patch
};

// Corners by position: the first vertex of the patch that lies there.
class Canonical {
 public:
  explicit Canonical(const Patch& patch) {
    LocalIds ids(patch.to_wedge.size());
    std::vector<uint32_t> added, first;
    first_.resize(patch.to_wedge.size());
    for (uint32_t v = 0; v < patch.to_wedge.size(); ++v) {
      const uint32_t id = ids.find_or_add(patch.to_position[v], added);
      if (id == first.size()) first.push_back(v);
      first_[v] = first[id];
    }
  }
  std::vector<uint32_t> operator()(const std::vector<uint32_t>& indices) const {
    std::vector<uint32_t> out = indices;
    if (!first_.empty())
      for (uint32_t& v : out) v = first_[v];
    return out;
  }

 private:
  std::vector<uint32_t> first_;
};

LodBounds enclosing(const ClusterPool& pool, const uint32_t* members, size_t count, float error, float step) {
  std::vector<Sphere> spheres;
  float child = 0;
  for (size_t i = 0; i < count; ++i) {
    spheres.push_back(pool.entries[members[i]].own.sphere);
    child = std::max(child, pool.entries[members[i]].own.error);
  }
  // strictly above every child's, by more than the rounding of too_coarse()
  const float least = std::max(child * (1 + 2 * lod_margin), step * smallest_error);
  return {sphere_around(spheres), std::max(error, least)};
}

}  // namespace

LodBounds terminal_bounds(const ClusterPool& pool, const uint32_t* members, size_t count) {
  LodBounds bounds = enclosing(pool, members, count, 0, 0);
  bounds.error = infinite_error;
  return bounds;
}

GroupResult simplify_group(const WeldedMesh& mesh, const ClusterPool& pool, const uint32_t* members,
                           size_t count, const std::vector<uint8_t>& locked, const BuildOptions& options) {
  GroupResult result;
  const Patch original = join(mesh, pool, members, count, locked);
  const size_t triangles = original.indices.size() / 3;
  const size_t target = (triangles / 2) * 3;
  const size_t limit = static_cast<size_t>(double(triangles) * accepted_share);
  auto enough = [&](const Patch& patch) {
    return !patch.indices.empty() && patch.indices.size() / 3 <= limit;
  };

  Patch patch = original;
  float error = simplify(patch, attributes_of(mesh, patch, options), target, 0);
  if (!enough(patch)) {
    result.fallback = true;
    const SeamCheck seam(original);
    const WedgeChooser wedges(mesh, original);
    const bool materials = !mesh.materials.empty();
    const struct {
      unsigned option;
      bool materials;
    } attempts[] = {{0, materials}, {simplify_prune, materials}, {simplify_prune, false}};
    for (const auto& attempt : attempts) {
      Patch merged = by_position(mesh, original, attempt.materials);
      error = simplify(merged, {}, target, attempt.option);
      wedges.choose(merged, attempt.materials, patch, result.made);
      if (enough(patch) && seam.fits(patch)) break;
      patch.indices.clear();
      if (!materials && attempt.option) break;
    }
  }
  if (!enough(patch)) return result;

  result.accepted = true;
  const Canonical canonical(patch);  // its first vertices are those of `original`
  std::vector<float> debts;
  const float measured = certify(patch.positions, {canonical(original.indices), original.debts},
                                 canonical(patch.indices), debts);
  result.estimate = error / mesh.unit, result.measured = measured / mesh.unit + mesh.snap;
  result.bounds = enclosing(pool, members, count, std::max(result.estimate, result.measured), mesh.grid.step);
  split_into_clusters(patch.indices, patch.positions, patch.to_wedge, nullptr, &debts, options.max_triangles,
                      result.clusters);
  return result;
}

}  // namespace nanite_cull
