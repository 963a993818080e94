// What kernels see of a scene: pointers to device memory.
#pragma once

#include "core/drawn_triangle.h"
#include "core/instance_view.h"
#include "core/records.h"
#include "core/wide.h"

namespace nanite_cull::cuda {

// Rows of AssetArrays::bounds, each an entry a cluster.
enum BoundsRow : int { row_lo, row_hi = 3, row_x = 6, row_y, row_z, row_r, row_error, bounds_rows };

struct AssetArrays {
  const Node* nodes;
  const Group* groups;
  const Cluster* clusters;
  const float* bounds;
  const float* positions;       // (V, 3)
  const uint32_t* vertex_refs;  // as in Asset; null: a cluster's vertices lie one behind the other
  const uint8_t* triangles;
  uint32_t cluster_count;
  Box box;
  RootCluster root;
  // What decides about holes and sides; null where no material of the asset does.
  const Surface* surfaces;
  uint32_t surface_count;
  const uint32_t* materials;  // (V), or null: all of the first
  const float* uvs;           // (V, 2) or null
  const float* colors;        // (V, 4) or null
  // What pixels are resolved to; null before bring_attributes().
  const float* normals;  // (V, 3) or null
  const Surface* looks;  // all materials, with their textures
  uint32_t look_count;
  uint32_t first_bin;  // of material_bin()
  // Of a streamed asset, else null.
  const uint32_t* triangle_numbers;  // of each cluster's first triangle, in the file
  uint32_t* wishes;                  // a word of core/requests.h for each group
  uint32_t wish_frame;

  HD float bound(int row, uint32_t cluster) const { return bounds[int64_t(row) * cluster_count + cluster]; }
  HD const float* position(const Cluster& c, int local) const {
    return positions + 3 * int64_t(vertex(c, local));
  }
  HD uint32_t vertex(const Cluster& c, int local) const {
    const uint32_t at = c.vertex_begin + static_cast<uint32_t>(local);
    return vertex_refs ? vertex_refs[at] : at;
  }
  HD uint32_t first_triangle(uint32_t cluster) const {
    return triangle_numbers ? triangle_numbers[cluster] : clusters[cluster].triangle_begin;
  }
  HD VertexArrays attributes() const { return {positions, normals, uvs, colors, materials}; }
  HD const Surface* look(uint32_t material) const {
    return material < look_count ? looks + material : nullptr;
  }
  // What the material of a triangle with that first vertex decides; null: nothing.
  HD const Surface* surface(uint32_t first_vertex) const {
    if (!surfaces) return nullptr;
    const uint32_t material = materials ? materials[first_vertex] : 0;
    return material < surface_count ? surfaces + material : nullptr;
  }
};

// One instance, as scene/scene.h has it.
struct InstanceRecord {
  Wide linear[9], translation[3];
  float inverse[9], largest, smallest;
  uint32_t asset, mirrored;

  HD BasicPlacement<Wide> placement() const {
    return {linear, {translation[0], translation[1], translation[2]}};
  }
};

struct SceneArrays {
  uint32_t count;
  const Sphere* spheres;  // in the world; a hidden instance's radius is minus infinity
  const InstanceRecord* instances;
  const AssetArrays* assets;
};

}  // namespace nanite_cull::cuda
