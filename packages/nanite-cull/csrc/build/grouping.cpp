#include "build/grouping.h"

#include <algorithm>
#include <array>

#include "build/meshopt_api.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr size_t one_group_limit = 32;  // a pool this small is one group (Karis et al. 2021)
constexpr size_t smallest_group = 4;    // below this a group is merged with others

uint32_t spread(uint32_t x) {  // ten bits, two zeros between each
  x = (x | x << 16) & 0x030000ffu;
  x = (x | x << 8) & 0x0300f00fu;
  x = (x | x << 4) & 0x030c30c3u;
  return (x | x << 2) & 0x09249249u;
}

std::vector<uint32_t> partition(const WeldedMesh& mesh, const ClusterPool& pool, int target) {
  std::vector<uint32_t> indices(pool.vertices.size()), counts(pool.size()), group(pool.size());
  for (size_t i = 0; i < indices.size(); ++i) indices[i] = mesh.position(pool.vertices[i]);
  for (size_t i = 0; i < counts.size(); ++i) counts[i] = pool.entries[i].vertex_count;
  // positions only guide the merging of parts that do not touch; merge_small() does that for all versions
  meshopt().partition(group.data(), indices.data(), indices.size(), counts.data(), counts.size(), nullptr,
                      mesh.position_count, target);
  return group;
}

Grouping collect(const std::vector<uint32_t>& group) {
  Grouping out;
  const uint32_t groups = *std::max_element(group.begin(), group.end()) + 1;
  out.begin.assign(groups + 1, 0);
  for (uint32_t g : group) ++out.begin[g + 1];
  for (uint32_t g = 0; g < groups; ++g) out.begin[g + 1] += out.begin[g];
  std::vector<uint32_t> next(out.begin.begin(), out.begin.end() - 1);
  out.members.resize(group.size());
  for (uint32_t c = 0; c < group.size(); ++c) out.members[next[group[c]]++] = c;
  return out;
}

Grouping merge_small(const ClusterPool& pool, const Grouping& grouping, size_t target) {
  std::vector<uint32_t> small;
  Grouping out;
  out.begin.push_back(0);
  auto add = [&](const Grouping& from, uint32_t g) {
    out.members.insert(out.members.end(), &from.members[from.begin[g]],
                       from.members.data() + from.begin[g + 1]);
  };
  for (uint32_t g = 0; g < grouping.size(); ++g) {
    if (grouping.begin[g + 1] - grouping.begin[g] < smallest_group) {
      small.push_back(g);
      continue;
    }
    add(grouping, g);
    out.begin.push_back(static_cast<uint32_t>(out.members.size()));
  }
  if (small.empty()) return out;

  float lo[3] = {1e38f, 1e38f, 1e38f}, hi[3] = {-1e38f, -1e38f, -1e38f};
  auto centre = [&](uint32_t g) -> const float* {
    return &pool.entries[grouping.members[grouping.begin[g]]].own.sphere.x;
  };
  for (uint32_t g : small)
    for (int a = 0; a < 3; ++a) lo[a] = std::min(lo[a], centre(g)[a]), hi[a] = std::max(hi[a], centre(g)[a]);
  const float extent = std::max({hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]});
  std::vector<uint32_t> keys;
  for (uint32_t g : small) keys.push_back(morton(centre(g), lo, extent > 0 ? 1 / extent : 0));
  size_t in_group = 0;
  for (uint32_t i : sorted_order(keys)) {
    const uint32_t count = grouping.begin[small[i] + 1] - grouping.begin[small[i]];
    if (in_group != 0 && in_group + count > target) {
      out.begin.push_back(static_cast<uint32_t>(out.members.size()));
      in_group = 0;
    }
    add(grouping, small[i]);
    in_group += count;
  }
  out.begin.push_back(static_cast<uint32_t>(out.members.size()));
  return out;
}

}  // namespace

uint32_t morton(const float* point, const float* lo, float inverse_extent) {
  uint32_t code = 0;
  for (int a = 0; a < 3; ++a) {
    const float t = (point[a] - lo[a]) * inverse_extent * 1023.0f + 0.5f;
    code |= spread(static_cast<uint32_t>(std::clamp(t, 0.0f, 1023.0f))) << a;
  }
  return code;
}

std::vector<uint32_t> sorted_order(const std::vector<uint32_t>& keys) {
  std::vector<uint32_t> order(keys.size()), other(keys.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  for (int shift = 0; shift < 32; shift += 11) {
    std::array<uint32_t, 2049> begin{};
    for (uint32_t key : keys) ++begin[(key >> shift & 2047) + 1];
    for (int i = 0; i < 2048; ++i) begin[i + 1] += begin[i];
    for (uint32_t i : order) other[begin[keys[i] >> shift & 2047]++] = i;
    order.swap(other);
  }
  return order;
}

Grouping group_clusters(const WeldedMesh& mesh, const ClusterPool& pool, int target) {
  if (pool.size() <= one_group_limit) return collect(std::vector<uint32_t>(pool.size(), 0));
  return merge_small(pool, collect(partition(mesh, pool, target)), target);
}

std::vector<uint8_t> lock_borders(const WeldedMesh& mesh, const ClusterPool& pool, const Grouping& grouping,
                                  int threads) {
  std::vector<uint32_t> owner(mesh.position_count, none);
  std::vector<uint8_t> locked = mesh.locked;
  locked.resize(mesh.position_count, 0);
  // Whoever comes first owns the position; a second group locks it. The outcome does not depend on order.
  native::parallel_for(grouping.size(), 64, threads, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g)
      for (uint32_t m = grouping.begin[g]; m < grouping.begin[g + 1]; ++m) {
        const ClusterPool::Entry& entry = pool.entries[grouping.members[m]];
        for (int v = 0; v < entry.vertex_count; ++v) {
          const uint32_t p = mesh.position(pool.vertices[entry.vertex_begin + v]);
          uint32_t expected = none;
          const bool ours = __atomic_compare_exchange_n(&owner[p], &expected, uint32_t(g), false,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED);
          if (!ours && expected != uint32_t(g)) __atomic_store_n(&locked[p], 1, __ATOMIC_RELAXED);
        }
      }
  });
  return locked;
}

}  // namespace nanite_cull
