// Visible clusters to pixels on a device, of all views at once. A pixel is one word, depth above id, and the
// largest stays: so any order of threads gives the picture that the CPU's tiles give.
//
//   draw_small    a block a cluster: its vertices go to shared memory once, then a thread a triangle; what
//                 has to be clipped, is larger than 64 pixels or may have holes is left to the others
//   set_up_large  of large clusters, and of what was left: triangles in fixed point, clipped where they must
//                 be, and the tiles that each may touch
//   draw_pieces   a warp for each tile of each of those: first of solid triangles; then, where the scene has
//                 such materials, of those with holes, which a texture says pixel by pixel
//
// Nothing is lost when the lists of large triangles are too short: then draw_pieces does nothing, and the
// host has both done again with longer ones.
#pragma once

#include <cstring>

#include "core/clip.h"
#include "raster/raster_pass.h"

namespace nanite_cull::cuda {

// One cluster as a block sees it.
struct DrawnCluster {
  const AssetArrays* asset;
  const Cluster* cluster;
  const float* matrix;
  uint32_t slot, view;
  int cull;  // see set_up(); of materials of one side

  DEV_FN DrawnCluster(const RasterPass& pass, uint32_t at) : slot(at) {
    const Visible v = pass.visible[at];
    view = v.view;
    const InstanceRecord& record = pass.scene.instances[v.instance];
    asset = pass.scene.assets + record.asset;
    cluster = asset->clusters + v.cluster;
    matrix = pass.to_clip + 16 * (int64_t(v.view) * pass.scene.count + v.instance);
    cull = !pass.cull_back ? 0 : record.mirrored ? -1 : 1;
  }
  DEV_FN const uint8_t* corners(int triangle) const {
    return asset->triangles + 3 * (int64_t(cluster->triangle_begin) + triangle);
  }
  DEV_FN ClipVertex clip_vertex(int local) const {
    return nanite_cull::to_clip(matrix, asset->position(*cluster, local));
  }
  DEV_FN const Surface* surface(const uint8_t* corner) const {
    return asset->surface(asset->vertex(*cluster, corner[0]));
  }
  DEV_FN int cull_of(const Surface* surface) const { return surface && surface->two_sided ? 0 : cull; }
  // The holes of a masked triangle.
  DEV_FN void mask(const RasterPass& pass, const uint8_t* corner, Mask& out) const {
    out.surface = surface(corner), out.width = pass.width, out.height = pass.height;
    for (int k = 0; k < 3; ++k) {
      const auto vertex = int64_t(asset->vertex(*cluster, corner[k]));
      out.corners.clip[k] = clip_vertex(corner[k]);
      if (asset->uvs) out.corners.set_uv(*out.surface, k, asset->uvs + 2 * vertex);
      if (asset->colors) out.corners.alpha[k] = asset->colors[4 * vertex + 3];
    }
  }
  // All threads of the block; a barrier has to follow.
  DEV_FN void project(const Screen& screen, FixedVertex* vertices) const {
    for (int i = static_cast<int>(threadIdx.x); i < cluster->vertex_count; i += static_cast<int>(blockDim.x))
      screen.project(clip_vertex(i), vertices[i]);
  }
};

DEV_FN bool must_be_clipped(const FixedVertex& a, const FixedVertex& b, const FixedVertex& c) {
  return a.x == unprojectable || b.x == unprojectable || c.x == unprojectable;
}

struct Solid {
  DEV_FN bool operator()(int, int) const { return true; }
};

// The pixels of a view. `counts`: fragments are.
template <bool counts>
struct Target {
  Count* pixels;
  uint32_t* overdraw;
  int width;

  DEV_FN Target(const RasterPass& pass, uint32_t view) : width(pass.width) {
    const int64_t first = int64_t(view) * pass.width * pass.height;
    pixels = pass.pixels + first, overdraw = counts ? pass.overdraw + first : nullptr;
  }
  template <class IsSolid>
  DEV_FN void put(const FixedTriangle& t, uint32_t id, int px, int py, const IsSolid& is_solid) const {
    const int64_t at = int64_t(py) * width + px;
    if constexpr (counts) atomicAdd(overdraw + at, 1u);
    const float z = t.depth(px, py);
    if (!(z > 0)) return;
    uint32_t bits;
    memcpy(&bits, &z, sizeof(bits));
    const Count word = Count(bits) << 32 | id;
    if (word > dev::load_relaxed(pixels + at) && is_solid(px, py)) atomicMax(pixels + at, word);
  }
};

template <bool counts>
DEV_KERNEL(small_threads)
draw_small(RasterPass pass) {
  DEV_SHARED(FixedVertex, vertices, max_cluster_vertices);
  const Screen screen = pass.screen();
  const auto count = static_cast<uint32_t>(*pass.small_count);
  Count drawn = 0;
  for (uint32_t k = blockIdx.x; k < count; k += gridDim.x) {
    const uint32_t slot = pass.small_slots ? pass.small_slots[k] : k;
    const DrawnCluster drawing(pass, slot);
    const Target<counts> target(pass, drawing.view);
    drawing.project(screen, vertices);
    __syncthreads();
    bool left = false;
    for (int i = static_cast<int>(threadIdx.x); i < drawing.cluster->triangle_count; i += small_threads) {
      const uint8_t* corner = drawing.corners(i);
      const FixedVertex a = vertices[corner[0]], b = vertices[corner[1]], c = vertices[corner[2]];
      const Surface* surface = drawing.surface(corner);
      FixedTriangle t;
      if (must_be_clipped(a, b, c) || (surface && surface->masked)) {
        left = true;
      } else if (set_up(a, b, c, 0, 0, pass.width, pass.height, pass.width, pass.height,
                        drawing.cull_of(surface), t)) {
        left |= !t.small;
        if (!t.small) continue;
        ++drawn;
        const uint32_t id = slot << id_triangle_bits | static_cast<uint32_t>(i);
        each_pixel(t, [&](int px, int py) { target.put(t, id, px, py, Solid{}); });
      }
    }
    // a barrier too: the next cluster's vertices take the place of these
    if (__syncthreads_or(left) && threadIdx.x == 0) pass.left[atomicAdd(&pass.small->left, Count(1))] = slot;
  }
  add_up(drawn, &pass.small->drawn);
}

// A triangle in fixed point: appended, with the tiles that its box touches.
DEV_FN void append_large(const RasterPass& pass, uint32_t view, const FixedVertex& a, const FixedVertex& b,
                         const FixedVertex& c, uint32_t id, int cull, bool masked) {
  FixedTriangle t;
  if (!set_up(a, b, c, 0, 0, pass.width, pass.height, pass.width, pass.height, cull, t)) return;
  const int x0 = t.px0 >> piece_shift, x1 = t.px1 >> piece_shift, y0 = t.py0 >> piece_shift,
            y1 = t.py1 >> piece_shift, columns = pass.columns();
  const auto above = static_cast<int>(view) * pass.rows();  // rows of tiles
  const Count number = atomicAdd(&pass.large->triangles, Count(1));
  const Count first = atomicAdd(&pass.large->pieces, Count(x1 - x0 + 1) * Count(y1 - y0 + 1));
  if (number >= pass.triangle_capacity) return;
  pass.triangles[number] = {{a, b, c}, id};
  Count at = first;
  for (int y = y0; y <= y1; ++y)
    for (int x = x0; x <= x1; ++x, ++at)
      if (at < pass.piece_capacity)
        pass.pieces[at] =
            number << 32 | (masked ? masked_piece : 0) | static_cast<uint32_t>((above + y) * columns + x);
}

DEV_KERNEL(set_up_threads) set_up_large(RasterPass pass) {
  DEV_SHARED(FixedVertex, vertices, max_cluster_vertices);
  DEV_SHARED(ClipVertex, polygons, 2 * max_clipped_corners * set_up_threads);
  DEV_SHARED(FixedVertex, fans, max_clipped_corners * set_up_threads);
  ClipVertex* const polygon = polygons + 2 * max_clipped_corners * threadIdx.x;
  FixedVertex* const fan = fans + max_clipped_corners * threadIdx.x;
  const Screen screen = pass.screen();
  const auto large = static_cast<uint32_t>(*pass.large_count), left = static_cast<uint32_t>(pass.small->left);
  Count clipped = 0;
  for (uint32_t k = blockIdx.x; k < large + left; k += gridDim.x) {
    const bool was_left = k >= large;
    const DrawnCluster drawing(pass, was_left           ? pass.left[k - large]
                                     : pass.large_slots ? pass.large_slots[k]
                                                        : pass.capacity - 1 - k);
    drawing.project(screen, vertices);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < drawing.cluster->triangle_count; i += set_up_threads) {
      const uint8_t* corner = drawing.corners(i);
      const FixedVertex a = vertices[corner[0]], b = vertices[corner[1]], c = vertices[corner[2]];
      const uint32_t id = drawing.slot << id_triangle_bits | static_cast<uint32_t>(i);
      const Surface* surface = drawing.surface(corner);
      const int cull = drawing.cull_of(surface);
      const bool masked = surface && surface->masked;
      if (must_be_clipped(a, b, c)) {
        for (int v = 0; v < 3; ++v) polygon[v] = drawing.clip_vertex(corner[v]);
        const int count = clip_triangle(screen, polygon, polygon + max_clipped_corners, fan);
        ++clipped;
        for (int v = 1; v + 1 < count; ++v)
          append_large(pass, drawing.view, fan[0], fan[v], fan[v + 1], id, cull, masked);
      } else if (!was_left || masked || !is_small(a, b, c)) {
        append_large(pass, drawing.view, a, b, c, id, cull, masked);
      }
    }
    __syncthreads();  // before the next cluster's vertices
  }
  add_up(clipped, &pass.large->clipped);
}

// One triangle in one tile, by a warp.
template <bool counts, class IsSolid>
DEV_FN void draw_piece(const Target<counts>& target, const FixedTriangle& t, uint32_t id,
                       const IsSolid& is_solid) {
  for (int px = t.px0 + dev::lane(); px <= t.px1; px += 32) {
    int64_t e[3];
    for (int i = 0; i < 3; ++i) e[i] = t.edge(i, px, t.py0);
    for (int py = t.py0; py <= t.py1; ++py) {
      if ((e[0] | e[1] | e[2]) >= 0) target.put(t, id, px, py, is_solid);
      for (int i = 0; i < 3; ++i) e[i] += int64_t(t.x[i == 2 ? 0 : i + 1] - t.x[i]) * subpixels;
    }
  }
}

template <bool masked, bool counts>
DEV_KERNEL(piece_threads)
draw_pieces(RasterPass pass) {
  if (pass.large->triangles > pass.triangle_capacity || pass.large->pieces > pass.piece_capacity) return;
  const auto count = static_cast<int64_t>(pass.large->pieces);
  const int columns = pass.columns(), rows = pass.rows();
  for (int64_t k = first_of_warp(1); k < count; k += stride_of_warps(1)) {
    const uint64_t piece = pass.pieces[k];
    if (((piece & masked_piece) != 0) != masked) continue;
    const LargeTriangle& triangle = pass.triangles[piece >> 32];
    const int tile = static_cast<int>(piece & (masked_piece - 1));
    const int x0 = tile % columns << piece_shift, y0 = tile / columns % rows << piece_shift;
    FixedTriangle t;
    if (!set_up(triangle.corner[0], triangle.corner[1], triangle.corner[2], x0, y0,
                least(x0 + (1 << piece_shift), pass.width), least(y0 + (1 << piece_shift), pass.height),
                pass.width, pass.height, 0, t))
      continue;
    const Target<counts> target(pass, static_cast<uint32_t>(tile / columns / rows));
    if constexpr (masked) {
      const DrawnCluster drawing(pass, triangle.id >> id_triangle_bits);
      Mask mask;
      drawing.mask(pass, drawing.corners(triangle.id & ((1u << id_triangle_bits) - 1)), mask);
      draw_piece(target, t, triangle.id, mask);
    } else {
      draw_piece(target, t, triangle.id, Solid{});
    }
  }
}

// Gives the pixels of the main pass the slots that their clusters have after the post pass: by their keys in
// the sorted lists of both.
DEV_KERNEL(piece_threads)
rename_pixels(Count* pixels, int64_t count, uint32_t capacity, const uint64_t* main_keys,
              const CullCounts* main, const uint64_t* keys, const CullCounts* both) {
  const SlotOrder before(*main, capacity), now(*both, capacity);
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const Count word = pixels[i];
    if (word == 0) continue;
    const auto id = static_cast<uint32_t>(word & 0xffffffffu);
    const uint64_t key = main_keys[before.place(id >> id_triangle_bits)];
    const uint32_t slot = now.slot(place_in(keys, now.count, key));
    pixels[i] = word >> 32 << 32 | (slot << id_triangle_bits | (id & ((1u << id_triangle_bits) - 1)));
  }
}

// Words to the planes that the host has; `id` may be null.
DEV_KERNEL(piece_threads) split_pixels(const Count* pixels, int64_t count, float* depth, uint32_t* id) {
  for (int64_t i = dev::thread_index(); i < count; i += dev::thread_count()) {
    const auto bits = static_cast<uint32_t>(pixels[i] >> 32);
    memcpy(depth + i, &bits, sizeof(bits));
    if (id) id[i] = static_cast<uint32_t>(pixels[i] & 0xffffffffu);
  }
}

}  // namespace nanite_cull::cuda
