#include "build/build.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>

#include "build/grouping.h"
#include "build/hierarchy.h"
#include "build/local_ids.h"
#include "build/pool.h"
#include "build/simplify_group.h"
#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr size_t chunk_triangles = 32768;  // leaf clusters are made per chunk: never depends on threads
constexpr int max_passes = 64;
constexpr double least_progress = 0.01;  // of a pool's triangles must lie in groups that simplify

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Faces in Morton order of their centres.
std::vector<uint32_t> spatial_order(const WeldedMesh& mesh, int threads) {
  float lo[3], hi[3];
  for (int a = 0; a < 3; ++a) {
    lo[a] = hi[a] = mesh.positions[a];
    for (size_t w = 0; w < mesh.wedge_count(); ++w)
      lo[a] = std::min(lo[a], mesh.positions[3 * w + a]), hi[a] = std::max(hi[a], mesh.positions[3 * w + a]);
  }
  const float inverse = 1 / std::max({hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]});
  std::vector<uint32_t> keys(mesh.faces.size() / 3);
  native::parallel_for(keys.size(), 65536, threads, [&](int64_t first, int64_t last) {
    for (int64_t f = first; f < last; ++f) {
      float centre[3] = {0, 0, 0};
      for (int c = 0; c < 3; ++c)
        for (int a = 0; a < 3; ++a) centre[a] += mesh.positions[3 * size_t(mesh.faces[3 * f + c]) + a] / 3;
      keys[f] = morton(centre, lo, inverse);
    }
  });
  return sorted_order(keys);
}

// Leaf clusters of faces order[first, last).
ClusterPool leaves_of_chunk(const WeldedMesh& mesh, const std::vector<uint32_t>& order, size_t first,
                            size_t last, const BuildOptions& options) {
  std::vector<uint32_t> to_wedge, indices, sources;
  LocalIds ids((last - first) * 3);
  indices.reserve((last - first) * 3);
  sources.reserve(last - first);
  for (size_t i = first; i < last; ++i) {
    for (int c = 0; c < 3; ++c)
      indices.push_back(ids.find_or_add(mesh.faces[3 * size_t(order[i]) + c], to_wedge));
    sources.push_back(mesh.source[order[i]]);
  }
  std::vector<float> positions;
  positions.reserve(to_wedge.size() * 3);
  for (uint32_t w : to_wedge)
    for (int a = 0; a < 3; ++a) positions.push_back(mesh.positions[3 * size_t(w) + a] * mesh.unit);

  ClusterPool pool;
  split_into_clusters(indices, positions, to_wedge, &sources, nullptr, options.max_triangles, pool);
  for (auto& entry : pool.entries)
    entry.own = {sphere_around(mesh.positions.data(), &pool.vertices[entry.vertex_begin], entry.vertex_count),
                 0.0f};
  return pool;
}

ClusterPool leaf_clusters(const WeldedMesh& mesh, const BuildOptions& options) {
  const std::vector<uint32_t> order = spatial_order(mesh, options.threads);
  const size_t chunks = std::max<size_t>(1, order.size() / chunk_triangles);
  std::vector<ClusterPool> parts(chunks);
  native::parallel_for(chunks, 1, options.threads, [&](int64_t c, int64_t) {
    parts[c] =
        leaves_of_chunk(mesh, order, order.size() * c / chunks, order.size() * (c + 1) / chunks, options);
  });
  ClusterPool pool;
  for (ClusterPool& part : parts) {
    pool.append(part);
    part = {};
  }
  return pool;
}

// Moves clusters from the passes into the asset, group by group.
class Emitter {
 public:
  Emitter(Asset& asset, const WeldedMesh& mesh, bool keep_source, const ClusterPool& leaves)
      : asset_(asset), mesh_(mesh), keep_source_(keep_source) {
    renumbered_.assign(mesh.wedge_count(), none);
    // all levels together are about twice the leaves: growing step by step would copy them again
    asset.triangles.reserve(leaves.triangles.size() * 2 + leaves.triangles.size() / 16);
    asset.vertex_refs.reserve(leaves.vertices.size() * 2 + leaves.vertices.size() / 8);
    asset.positions.reserve(mesh.positions.size());
  }

  void emit(const ClusterPool& pool, const uint32_t* members, size_t count, const LodBounds& bounds,
            uint32_t pass) {
    const uint32_t g = static_cast<uint32_t>(asset_.groups.size());
    asset_.groups.push_back(
        {bounds, static_cast<uint32_t>(asset_.clusters.size()), static_cast<uint32_t>(count), pass});
    for (size_t i = 0; i < count; ++i) emit_cluster(pool, members[i], g);
  }

 private:
  void emit_cluster(const ClusterPool& pool, uint32_t index, uint32_t g) {
    const ClusterPool::Entry& entry = pool.entries[index];
    Cluster cluster;
    cluster.vertex_begin = static_cast<uint32_t>(asset_.vertex_refs.size());
    cluster.triangle_begin = static_cast<uint32_t>(asset_.triangle_count());
    cluster.vertex_count = entry.vertex_count;
    cluster.triangle_count = entry.triangle_count;
    cluster.group = g;
    cluster.source_group = entry.source_group;
    cluster.level = entry.level;
    const uint8_t* corners = pool.triangles.data() + size_t(entry.triangle_begin) * 3;
    asset_.triangles.insert(asset_.triangles.end(), corners, corners + size_t(entry.triangle_count) * 3);
    if (keep_source_ && entry.source_group == none) {
      // leaf clusters that were carried to a later pass would break the order of leaf_source
      leaf_source_.push_back({cluster.triangle_begin,
                              {pool.sources.begin() + entry.triangle_begin,
                               pool.sources.begin() + entry.triangle_begin + entry.triangle_count}});
    }
    for (int v = 0; v < entry.vertex_count; ++v)
      asset_.vertex_refs.push_back(vertex(pool.vertices[entry.vertex_begin + v]));
    asset_.clusters.push_back(cluster);
  }

  // Vertices are numbered as clusters use them, leaves first: neighbours lie side by side in memory.
  uint32_t vertex(uint32_t wedge) {
    if (wedge >= renumbered_.size()) renumbered_.resize(mesh_.wedge_count(), none);
    if (renumbered_[wedge] != none) return renumbered_[wedge];
    auto copy = [&](const auto& from, auto& to, int width) {
      if (!from.empty())
        to.insert(to.end(), &from[size_t(wedge) * width], &from[size_t(wedge) * width] + width);
    };
    copy(mesh_.positions, asset_.positions, 3);
    copy(mesh_.normals, asset_.normals, 3);
    copy(mesh_.uvs, asset_.uvs, 2);
    copy(mesh_.colors, asset_.colors, 4);
    copy(mesh_.materials, asset_.materials, 1);
    return renumbered_[wedge] = static_cast<uint32_t>(asset_.positions.size() / 3 - 1);
  }

 public:
  // One entry for each triangle of the asset; `none` where it is not a source triangle.
  void finish() {
    if (!keep_source_) return;
    asset_.leaf_source.assign(asset_.triangle_count(), none);
    for (const auto& [begin, faces] : leaf_source_)
      std::copy(faces.begin(), faces.end(), asset_.leaf_source.begin() + begin);
    size_t last = asset_.leaf_source.size();
    while (last > 0 && asset_.leaf_source[last - 1] == none) --last;
    asset_.leaf_source.resize(last);
    asset_.leaf_source.shrink_to_fit();
  }

 private:
  Asset& asset_;
  const WeldedMesh& mesh_;
  bool keep_source_;
  std::vector<uint32_t> renumbered_;
  std::vector<std::pair<uint32_t, std::vector<uint32_t>>> leaf_source_;
};

// Nothing coarser can be made: the rest of the pool become roots.
void emit_roots(Emitter& emitter, Asset& asset, const ClusterPool& pool, const Grouping& grouping,
                uint32_t pass) {
  for (size_t g = 0; g < grouping.size(); ++g) {
    const uint32_t* members = &grouping.members[grouping.begin[g]];
    const size_t count = grouping.begin[g + 1] - grouping.begin[g];
    emitter.emit(pool, members, count, terminal_bounds(pool, members, count), pass);
  }
  asset.report.roots = pool.size();
  asset.report.root_triangles = pool.triangle_total();
}

// Accepted groups of a pass, numbered; returns how many of the pool's triangles they hold.
uint64_t number_groups(WeldedMesh& mesh, const ClusterPool& pool, const Grouping& grouping,
                       uint32_t first_group, uint32_t pass, std::vector<GroupResult>& results,
                       BuildReport& report) {
  uint64_t simplified = 0;
  uint32_t id = first_group;
  const uint32_t wedges = static_cast<uint32_t>(mesh.wedge_count());
  for (size_t g = 0; g < grouping.size(); ++g) {
    GroupResult& result = results[g];
    report.stuck_groups += !result.accepted;
    if (!result.accepted) continue;
    const uint32_t moved = static_cast<uint32_t>(mesh.wedge_count()) - wedges;
    for (uint32_t& v : result.clusters.vertices)
      if (v >= wedges) v += moved;
    for (const NewWedge& wedge : result.made) mesh.add_wedge(wedge.base, wedge.material);
    report.fallback_groups += result.fallback;
    ++report.simplified_groups;
    if (result.measured > result.estimate) {
      ++report.measured_larger;
      const double ratio = result.measured / std::max(result.estimate, 1e-30f);
      report.measured_ratio = std::max(report.measured_ratio, ratio);
    }
    for (uint32_t m = grouping.begin[g]; m < grouping.begin[g + 1]; ++m)
      simplified += pool.entries[grouping.members[m]].triangle_count;
    for (auto& entry : result.clusters.entries)
      entry.source_group = id, entry.level = pass + 1, entry.own = result.bounds;
    ++id;
  }
  return simplified;
}

// The clusters of the next pass: what the groups became. A stuck group's clusters are carried on and get
// other neighbours next time.
ClusterPool next_pool(const ClusterPool& pool, const Grouping& grouping, std::vector<GroupResult>& results) {
  ClusterPool next;
  for (size_t g = 0; g < grouping.size(); ++g) {
    ClusterPool& made = results[g].clusters;
    if (results[g].accepted) {
      if (!pool.sources.empty()) made.sources.assign(made.triangle_total(), none);
      next.append(made);
      made = {};
    } else {
      for (uint32_t m = grouping.begin[g]; m < grouping.begin[g + 1]; ++m)
        next.append(pool, grouping.members[m]);
    }
  }
  return next;
}

void build_levels(Asset& asset, WeldedMesh& mesh, ClusterPool pool, const BuildOptions& options,
                  const Progress& progress) {
  Emitter emitter(asset, mesh, options.keep_source, pool);
  const double leaves = double(pool.triangle_total());
  double done = 0;
  Grouping grouping = group_clusters(mesh, pool, options.group_size);
  uint32_t pass = 0;
  for (; pool.size() > 1 && pass < max_passes; ++pass) {
    const std::vector<uint8_t> locked = lock_borders(mesh, pool, grouping, options.threads);
    std::vector<GroupResult> results(grouping.size());
    native::parallel_for(grouping.size(), 4, options.threads, [&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g)
        results[g] = simplify_group(mesh, pool, &grouping.members[grouping.begin[g]],
                                    grouping.begin[g + 1] - grouping.begin[g], locked, options);
    });
    const double simplified = double(
        number_groups(mesh, pool, grouping, uint32_t(asset.groups.size()), pass, results, asset.report));
    if (simplified < least_progress * double(pool.triangle_total())) break;
    // what this pass emits and how the next one is grouped do not depend on each other
    ClusterPool next;
    Grouping next_grouping;
    native::parallel_for(2, 1, options.threads, [&](int64_t task, int64_t) {
      if (task == 1) {
        next = next_pool(pool, grouping, results);
        next_grouping = group_clusters(mesh, next, options.group_size);
        return;
      }
      for (size_t g = 0; g < grouping.size(); ++g) {
        if (!results[g].accepted) continue;
        const LodBounds& bounds = results[g].bounds;
        emitter.emit(pool, &grouping.members[grouping.begin[g]], grouping.begin[g + 1] - grouping.begin[g],
                     bounds, pass);
        asset.report.max_error = std::max(asset.report.max_error, bounds.error);
      }
    });
    pool = std::move(next), grouping = std::move(next_grouping);
    done += simplified;
    if (progress) progress(0.4 + 0.55 * std::min(1.0, done / (2 * leaves)), "levels");
  }
  emit_roots(emitter, asset, pool, grouping, pass);
  emitter.finish();
  asset.bounds.resize(asset.clusters.size());
  native::parallel_for(asset.clusters.size(), 256, options.threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) measure_cluster(asset, static_cast<uint32_t>(c));
  });
  asset.levels = pass + 1;
}

void check_options(const BuildOptions& o) {
  native::demand(
      o.max_triangles >= 12 && o.max_triangles <= max_cluster_triangles && o.max_triangles % 4 == 0, [&] {
        return "build: max_triangles must be a multiple of 4 from 12 to 128, got " +
               std::to_string(o.max_triangles);
      });
  native::demand(o.group_size >= 2 && o.group_size <= 32,
                 [&] { return "build: group_size must be 2 to 32, got " + std::to_string(o.group_size); });
  native::demand(o.width == 4 || o.width == 8,
                 [&] { return "build: width must be 4 or 8, got " + std::to_string(o.width); });
  native::demand(o.position_bits >= 0 && o.position_bits <= 24, [&] {
    return "build: position_bits must be 0 (automatic) to 24, got " + std::to_string(o.position_bits);
  });
}

WeldedMesh weld_input(MeshInput mesh, const BuildOptions& options) {
  GridOptions how;
  how.bits = options.position_bits, how.step = options.step;
  how.origin = options.set_origin ? options.origin : nullptr;
  const Grid grid = choose_grid(mesh, how, options.threads);
  if (is_facetted(mesh, options.threads)) mesh.normals = nullptr;
  WeldedMesh welded = weld(mesh, grid, options.threads);
  native::demand(welded.vanished == 0 || options.drop_vanishing, [&] {
    const double keeps = step_that_keeps(mesh, grid, how.origin, options.threads);
    char step[32], cure[160];
    std::snprintf(step, sizeof(step), "%.9g", double(grid.step));
    if (keeps > 0)
      std::snprintf(cure, sizeof(cure), "step=%.9g keeps them, vanishing=\"drop\" leaves them out", keeps);
    else
      std::snprintf(
          cure, sizeof(cure),
          "no step of 24 bits keeps them: split the mesh, or leave them out with vanishing=\"drop\"");
    return "build: " + std::to_string(welded.vanished) +
           " triangles with an area vanish on the mesh grid (step " + step + "); " + cure;
  });
  return welded;
}

}  // namespace

Asset build(const MeshInput& given, const BuildOptions& options, const Progress& progress) {
  check_options(options);
  Asset asset;
  asset.width = options.width;
  double start = now();
  auto lap = [&](double& seconds) {
    const double end = now();
    seconds = end - start;
    start = end;
  };
  WeldedMesh welded = weld_input(given, options);
  asset.step = welded.grid.step, asset.uv_step = welded.uv_step;
  std::copy_n(welded.grid.origin, 3, asset.origin);
  asset.report.input_triangles = given.face_count;
  asset.report.input_vertices = given.vertex_count;
  asset.report.degenerate_triangles = welded.degenerate;
  asset.report.vanished_triangles = welded.vanished;
  asset.report.welded_positions = welded.position_count;
  lap(asset.report.seconds_weld);
  if (progress) progress(0.1, "leaves");

  ClusterPool pool = leaf_clusters(welded, options);
  welded.faces = {};
  welded.source = {};
  lap(asset.report.seconds_leaves);
  if (progress) progress(0.4, "levels");

  build_levels(asset, welded, std::move(pool), options, progress);
  lap(asset.report.seconds_levels);

  build_hierarchy(asset);
  lap(asset.report.seconds_hierarchy);
  if (progress) progress(1.0, "done");
  return asset;
}

}  // namespace nanite_cull
