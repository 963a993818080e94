#include "build/simplify_group.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "build/local_ids.h"
#include "build/meshopt_api.h"
#include "core/lod.h"

namespace nanite_cull {

namespace {

constexpr double accepted_share = 0.85;        // of the triangles may be left, else the group is stuck
constexpr float smallest_error = 1.0f / 1024;  // grid steps: keeps level 1 above the leaves' zero

// The joined triangles of a group over local vertices.
struct Patch {
  std::vector<uint32_t> indices;
  std::vector<uint32_t> to_wedge;
  std::vector<float> positions;
  std::vector<uint8_t> lock;
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
  }
  patch.positions.reserve(patch.to_wedge.size() * 3);
  for (uint32_t wedge : patch.to_wedge) {
    for (int a = 0; a < 3; ++a) patch.positions.push_back(mesh.positions[3 * size_t(wedge) + a] * mesh.unit);
    patch.lock.push_back(locked[mesh.position(wedge)]);
  }
  return patch;
}

// Attributes of the patch's vertices side by side, and the weight of each.
struct Attributes {
  std::vector<float> values, weights;
};

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
    put(mesh.colors, 4);
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

// Directed edges between locked vertices, by position, that have no opposite: the seam to other groups.
std::map<std::pair<uint32_t, uint32_t>, int> seam(const WeldedMesh& mesh, const Patch& patch) {
  std::map<std::pair<uint32_t, uint32_t>, int> balance;
  for (size_t i = 0; i < patch.indices.size(); i += 3)
    for (int c = 0; c < 3; ++c) {
      const uint32_t a = patch.indices[i + c], b = patch.indices[i + (c + 1) % 3];
      if (!patch.lock[a] || !patch.lock[b]) continue;
      const uint32_t p = mesh.position(patch.to_wedge[a]), q = mesh.position(patch.to_wedge[b]);
      balance[{std::min(p, q), std::max(p, q)}] += p < q ? 1 : -1;
    }
  for (auto i = balance.begin(); i != balance.end();) i = i->second == 0 ? balance.erase(i) : std::next(i);
  return balance;
}

// One vertex for each position: what attribute seams would pin can then move.
Patch by_position(const WeldedMesh& mesh, const Patch& patch) {
  Patch out;
  LocalIds ids(patch.to_wedge.size());
  std::vector<uint32_t> positions_added, local(patch.to_wedge.size());
  for (size_t v = 0; v < patch.to_wedge.size(); ++v) {
    const size_t before = positions_added.size();
    local[v] = ids.find_or_add(mesh.position(patch.to_wedge[v]), positions_added);
    if (positions_added.size() == before) continue;
    out.to_wedge.push_back(patch.to_wedge[v]);
    out.positions.insert(out.positions.end(), &patch.positions[3 * v], &patch.positions[3 * v] + 3);
    out.lock.push_back(patch.lock[v]);
  }
  for (uint32_t v : patch.indices) out.indices.push_back(local[v]);
  return out;
}

// Gives each corner of a triangle that was simplified by position the wedge whose normal is nearest to
// the triangle's; the first wedge where there are no normals.
void choose_wedges(const WeldedMesh& mesh, const Patch& original, const Patch& merged, Patch& out) {
  std::map<uint32_t, std::vector<uint32_t>> at;  // position -> local vertices of the original patch
  for (uint32_t v = 0; v < original.to_wedge.size(); ++v)
    at[mesh.position(original.to_wedge[v])].push_back(v);
  out = original;
  out.indices.clear();
  for (size_t i = 0; i < merged.indices.size(); i += 3) {
    const float* p[3];
    for (int c = 0; c < 3; ++c) p[c] = &merged.positions[3 * size_t(merged.indices[i + c])];
    float u[3], v[3];
    for (int a = 0; a < 3; ++a) u[a] = p[1][a] - p[0][a], v[a] = p[2][a] - p[0][a];
    const float n[3] = {u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]};
    for (int c = 0; c < 3; ++c) {
      const auto& candidates = at[mesh.position(merged.to_wedge[merged.indices[i + c]])];
      uint32_t best = candidates[0];
      float best_dot = -1e38f;
      for (uint32_t candidate : candidates) {
        if (mesh.normals.empty()) break;
        const float* m = &mesh.normals[3 * size_t(original.to_wedge[candidate])];
        const float dot = m[0] * n[0] + m[1] * n[1] + m[2] * n[2];
        if (dot > best_dot) best = candidate, best_dot = dot;
      }
      out.indices.push_back(best);
    }
  }
}

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
    const auto before = seam(mesh, original);
    for (unsigned attempt : {0u, simplify_prune}) {
      Patch merged = by_position(mesh, original);
      error = simplify(merged, {}, target, attempt);
      choose_wedges(mesh, original, merged, patch);
      if (enough(patch) && seam(mesh, patch) == before) break;
      patch.indices.clear();
    }
  }
  if (!enough(patch)) return result;

  result.accepted = true;
  result.bounds = enclosing(pool, members, count, error / mesh.unit, mesh.step);
  split_into_clusters(patch.indices, patch.positions, patch.to_wedge, nullptr, options.max_triangles,
                      result.clusters);
  return result;
}

}  // namespace nanite_cull
