#include "raster/raster.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <string>

#include "build/surfaces.h"
#include "core/clip.h"
#include "native/check.h"
#include "native/parallel.h"
#include "raster/raster_tile.h"

namespace nanite_cull {

namespace {

constexpr int tile_width = 256, tile_height = 128;
constexpr size_t chunk_clusters = 4096;  // transformed at once: their vertices stay in the cache
class TileRaster {
 public:
  TileRaster(const Screen& screen, const RasterOptions& options, const Tile& tile)
      : screen_(screen), options_(options), tile_(tile) {}

  // Which side is left out of what follows: see set_up().
  void cull_side(bool mirrored, bool two_sided) {
    cull_ = !options_.cull_back || two_sided ? 0 : mirrored ? -1 : 1;
  }
  // Which pixels of what follows are no holes; null: all.
  void mask(const Mask* mask) { mask_ = mask; }

  void triangle(const FixedVertex& a, const FixedVertex& b, const FixedVertex& c, uint32_t id) {
    FixedTriangle t;
    if (!set_up(a, b, c, tile_.x0, tile_.y0, tile_.x1, tile_.y1, screen_.width, screen_.height, cull_, t))
      return;
    ++drawn;
    if (mask_)
      draw_masked(tile_, t, id, options_.large_path_only, *mask_);
    else
      draw(tile_, t, id, options_.large_path_only);
  }

  void clipped_triangle(const float* matrix, const float* p, const float* q, const float* r, uint32_t id) {
    ClipVertex polygon[max_clipped_corners] = {to_clip(matrix, p), to_clip(matrix, q), to_clip(matrix, r)};
    ClipVertex scratch[max_clipped_corners];
    FixedVertex fixed[max_clipped_corners];
    const int count = clip_triangle(screen_, polygon, scratch, fixed);
    ++clipped;
    for (int i = 1; i + 1 < count; ++i) triangle(fixed[0], fixed[i], fixed[i + 1], id);
  }

  uint64_t drawn = 0, clipped = 0;

 private:
  const Screen& screen_;
  const RasterOptions& options_;
  Tile tile_;
  int cull_ = 0;
  const Mask* mask_ = nullptr;
};

// A cluster of the current chunk, transformed.
struct Projected {
  const Draw* draw;
  const Cluster* cluster;
  ClusterGeometry geometry;
  const Surfaces* surfaces;  // of its asset, where some have holes or two sides; or null
  uint32_t slot;
  uint32_t first_vertex;  // into the chunk's vertices
  bool needs_clip;
  int px0, py0, px1, py1;  // pixels it may cover
};

void project_cluster(const Screen& screen, Projected& out, FixedVertex* vertices) {
  int32_t lo_x = INT32_MAX, hi_x = INT32_MIN, lo_y = INT32_MAX, hi_y = INT32_MIN;
  out.needs_clip = false;
  for (int v = 0; v < out.cluster->vertex_count; ++v) {
    if (!screen.project(to_clip(out.draw->to_clip, out.geometry.position(v)), vertices[v])) {
      out.needs_clip = true;
      continue;
    }
    lo_x = std::min(lo_x, vertices[v].x), hi_x = std::max(hi_x, vertices[v].x);
    lo_y = std::min(lo_y, vertices[v].y), hi_y = std::max(hi_y, vertices[v].y);
  }
  if (out.needs_clip) {
    out.px0 = out.py0 = 0, out.px1 = screen.width - 1, out.py1 = screen.height - 1;
    return;
  }
  out.px0 = std::max(0, (lo_x + subpixels / 2 - 1) >> subpixel_bits);
  out.py0 = std::max(0, (lo_y + subpixels / 2 - 1) >> subpixel_bits);
  out.px1 = std::min(screen.width - 1, (hi_x - subpixels / 2) >> subpixel_bits);
  out.py1 = std::min(screen.height - 1, (hi_y - subpixels / 2) >> subpixel_bits);
}

// What the material of a triangle says of holes and sides.
class TriangleSurface {
 public:
  TriangleSurface(const Projected& p, int width, int height) : p_(p) {
    mask_.width = width, mask_.height = height;
  }

  void apply(const uint8_t* corner, TileRaster& tile) {
    const Vertices& v = *p_.geometry.vertices;
    const Surface* surface =
        p_.surfaces->of(v.materials.empty() ? 0 : v.materials[p_.geometry.vertex(*corner)]);
    tile.cull_side(p_.draw->mirrored, surface && surface->two_sided);
    tile.mask(nullptr);
    if (!surface || !surface->masked) return;
    mask_.surface = surface;
    for (int k = 0; k < 3; ++k) {
      const size_t vertex = p_.geometry.vertex(corner[k]);
      mask_.corners.clip[k] = to_clip(p_.draw->to_clip, p_.geometry.position(corner[k]));
      if (!v.uvs.empty()) mask_.corners.set_uv(*surface, k, &v.uvs[2 * vertex]);
      mask_.corners.alpha[k] = v.colors.empty() ? 1 : v.colors[4 * vertex + 3];
    }
    tile.mask(&mask_);
  }

 private:
  const Projected& p_;
  Mask mask_;
};

void draw_cluster(TileRaster& tile, const Projected& p, const FixedVertex* vertices, const Screen& screen) {
  const Cluster& cluster = *p.cluster;
  const uint8_t* corner = p.geometry.triangles;
  tile.cull_side(p.draw->mirrored, false), tile.mask(nullptr);
  TriangleSurface surface(p, screen.width, screen.height);
  for (uint32_t t = 0; t < cluster.triangle_count; ++t, corner += 3) {
    const FixedVertex &a = vertices[corner[0]], &b = vertices[corner[1]], &c = vertices[corner[2]];
    const uint32_t id = p.slot << triangle_bits | t;
    if (p.surfaces) surface.apply(corner, tile);
    if (p.needs_clip && (a.x == unprojectable || b.x == unprojectable || c.x == unprojectable)) {
      auto position = [&](int i) { return p.geometry.position(corner[i]); };
      tile.clipped_triangle(p.draw->to_clip, position(0), position(1), position(2), id);
    } else {
      tile.triangle(a, b, c, id);
    }
  }
}

void clear(VisibilityBuffer& out, int width, int height, const RasterOptions& options) {
  out.width = width, out.height = height;
  const size_t pixels = size_t(width) * height;
  out.depth.resize(pixels), out.id.resize(pixels);
  out.overdraw.resize(options.overdraw ? pixels : 0);
  native::parallel_for(height, 64, options.threads, [&](int64_t first, int64_t last) {
    const size_t at = size_t(first) * width, bytes = size_t(last - first) * width * 4;
    std::memset(&out.depth[at], 0, bytes), std::memset(&out.id[at], 0, bytes);
    if (options.overdraw) std::memset(&out.overdraw[at], 0, bytes);
  });
}

struct TileGrid {
  int columns, rows;
  TileGrid(int width, int height)
      : columns((width + tile_width - 1) / tile_width), rows((height + tile_height - 1) / tile_height) {}
  int count() const { return columns * rows; }
  Tile tile(int index, VisibilityBuffer& out) const {
    const int x = index % columns * tile_width, y = index / columns * tile_height;
    return {x,
            y,
            std::min(x + tile_width, out.width),
            std::min(y + tile_height, out.height),
            out.width,
            out.depth.data(),
            out.id.data(),
            out.overdraw.empty() ? nullptr : out.overdraw.data()};
  }
};

// Which clusters of a chunk each tile draws.
struct Bins {
  std::vector<uint32_t> begin, members;

  void fill(const TileGrid& grid, const std::vector<Projected>& clusters) {
    begin.assign(grid.count() + 1, 0);
    each(grid, clusters, [&](int tile, uint32_t) { ++begin[tile + 1]; });
    for (int t = 0; t < grid.count(); ++t) begin[t + 1] += begin[t];
    members.resize(begin.back());
    std::vector<uint32_t> next(begin.begin(), begin.end() - 1);
    each(grid, clusters, [&](int tile, uint32_t c) { members[next[tile]++] = c; });
  }

 private:
  template <class F>
  static void each(const TileGrid& grid, const std::vector<Projected>& clusters, F&& body) {
    for (uint32_t c = 0; c < clusters.size(); ++c) {
      const Projected& p = clusters[c];
      if (p.px0 > p.px1 || p.py0 > p.py1) continue;
      for (int y = p.py0 / tile_height; y <= p.py1 / tile_height; ++y)
        for (int x = p.px0 / tile_width; x <= p.px1 / tile_width; ++x) body(y * grid.columns + x, c);
    }
  }
};

// Of each asset the materials that decide which pixels are drawn; null where none does.
std::vector<const Surfaces*> decisive_surfaces(const Draws& draws, const RasterOptions& options) {
  std::vector<const Surfaces*> out;
  for (const auto& asset : draws.assets) {
    const Surfaces* s = asset->surfaces.get();
    out.push_back(s && (s->any_masked() || (options.cull_back && s->any_two_sided())) ? s : nullptr);
  }
  return out;
}

// Draws the clusters of the slots slot_of(0) to slot_of(total - 1).
template <class SlotOf>
void draw_slots(const Draws& draws, const VisibleClusters& visible, uint64_t total, SlotOf&& slot_of,
                const RasterOptions& options, VisibilityBuffer& out, RasterStats& stats) {
  const Screen screen(out.width, out.height);
  const TileGrid grid(out.width, out.height);
  const std::vector<const Surfaces*> decisive = decisive_surfaces(draws, options);
  std::vector<Projected> clusters;
  std::vector<FixedVertex> vertices;
  Bins bins;
  std::atomic<uint64_t> drawn{0}, clipped{0};
  for (uint64_t first = 0; first < total; first += chunk_clusters) {
    const size_t count = std::min<uint64_t>(chunk_clusters, total - first);
    clusters.resize(count);
    uint32_t vertex = 0;
    for (size_t i = 0; i < count; ++i) {
      Projected& p = clusters[i];
      p.slot = slot_of(first + i);
      const Visible& v = visible.buffer[p.slot];
      p.draw = &draws.draws[draws.of[p.slot]];
      p.cluster = &draws.assets[p.draw->asset]->clusters[v.cluster];
      p.geometry = draws.geometry(p.draw->asset, v.cluster);
      p.surfaces = decisive[p.draw->asset];
      p.first_vertex = vertex;
      vertex += p.cluster->vertex_count;
    }
    vertices.resize(vertex);
    native::parallel_for(count, 64, options.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        project_cluster(screen, clusters[i], &vertices[clusters[i].first_vertex]);
    });
    bins.fill(grid, clusters);
    native::parallel_for(grid.count(), 1, options.threads, [&](int64_t t, int64_t) {
      TileRaster tile(screen, options, grid.tile(static_cast<int>(t), out));
      for (uint32_t m = bins.begin[t]; m < bins.begin[t + 1]; ++m)
        draw_cluster(tile, clusters[bins.members[m]], &vertices[clusters[bins.members[m]].first_vertex],
                     screen);
      drawn += tile.drawn, clipped += tile.clipped;
    });
    stats.clusters += count;
  }
  stats.drawn_triangles += drawn, stats.clipped_triangles += clipped;
}

}  // namespace

void raster(const Draws& draws, const View& view, const VisibleClusters& visible,
            const RasterOptions& options, VisibilityBuffer& out, RasterStats& stats, uint32_t number) {
  native::demand(visible.buffer.size() <= max_slots, [&] {
    return "raster: max_visible_clusters must be at most 2^25 (the ids of a visibility buffer), got " +
           std::to_string(visible.buffer.size());
  });
  clear(out, view.width, view.height, options);
  stats = {};
  const uint64_t small_begin = number > 0 ? visible.small_end[number - 1] : 0,
                 large_begin = number > 0 ? visible.large_end[number - 1] : 0,
                 small = visible.small_end[number] - small_begin,
                 large = visible.large_end[number] - large_begin;
  auto slot_of = [&](uint64_t i) {
    return static_cast<uint32_t>(i < small ? small_begin + i
                                           : visible.buffer.size() - 1 - (large_begin + (i - small)));
  };
  draw_slots(draws, visible, small + large, slot_of, options, out, stats);
}

void raster_added(const Draws& draws, const VisibleClusters& visible, const std::vector<uint32_t>& slots,
                  const RasterOptions& options, VisibilityBuffer& out, RasterStats& stats) {
  draw_slots(draws, visible, slots.size(), [&](uint64_t i) { return slots[i]; }, options, out, stats);
}

void raster_triangles(const float* positions, int64_t vertex_count, const uint32_t* faces, int64_t count,
                      const float* matrix, const RasterOptions& options, int width, int height,
                      VisibilityBuffer& out) {
  clear(out, width, height, options);
  const Screen screen(width, height);
  const TileGrid grid(width, height);
  std::vector<FixedVertex> vertices(vertex_count);
  native::parallel_for(vertex_count, 65536, options.threads, [&](int64_t first, int64_t last) {
    for (int64_t v = first; v < last; ++v) screen.project(to_clip(matrix, positions + 3 * v), vertices[v]);
  });
  native::parallel_for(grid.count(), 1, options.threads, [&](int64_t t, int64_t) {
    TileRaster tile(screen, options, grid.tile(static_cast<int>(t), out));
    tile.cull_side(false, false);
    for (int64_t f = 0; f < count; ++f) {
      const uint32_t* corner = faces + 3 * f;
      const FixedVertex &a = vertices[corner[0]], &b = vertices[corner[1]], &c = vertices[corner[2]];
      if (a.x == unprojectable || b.x == unprojectable || c.x == unprojectable)
        tile.clipped_triangle(matrix, positions + 3 * size_t(corner[0]), positions + 3 * size_t(corner[1]),
                              positions + 3 * size_t(corner[2]), static_cast<uint32_t>(f));
      else
        tile.triangle(a, b, c, static_cast<uint32_t>(f));
    }
  });
}

}  // namespace nanite_cull
