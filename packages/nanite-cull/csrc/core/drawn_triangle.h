// One triangle of the visibility buffer and its attributes at a pixel: one order of operations, so that host
// and device resolve to the same bits.
#pragma once

#include <cmath>

#include "core/surface.h"

namespace nanite_cull {

// Which attributes are asked of it.
struct Wants {
  bool normal, uv, color, position;
  bool texture = false;
};

// Of vertices; null where an asset has none.
struct VertexArrays {
  const float* positions;     // (V, 3)
  const float* normals;       // (V, 3)
  const float* uvs;           // (V, 2)
  const float* colors;        // (V, 4)
  const uint32_t* materials;  // (V)
};

// Where the triangle of an instance is: filled in, then prepared.
struct DrawnTriangle {
  VertexArrays vertices = {};
  uint32_t corner[3] = {};          // of them
  const float* to_clip = nullptr;   // (16)
  const float* inverse = nullptr;   // (9), of the instance's linear part
  uint32_t cluster = 0, level = 0;  // of the instance's asset
  uint32_t triangle = 0;            // counted over all its clusters

  bool interpolates = false;         // some target needs weights
  bool linear_colors = false;        // of the vertices; else as a display is sent them
  const Surface* surface = nullptr;  // whose texture is wanted and there
  ClipVertex clip[3] = {};
  float face_normal[3] = {};
  SurfaceCorners corners = {};

  HD uint32_t material() const { return vertices.materials ? vertices.materials[corner[0]] : 0; }
  HD const float* position(int k) const { return vertices.positions + 3 * int64_t(corner[k]); }

  // `said`: what its material says; null: nothing.
  HD void prepare(const Surface* said, const Wants& wants) {
    const bool textured = wants.texture && said && said->texture.texels && vertices.uvs;
    interpolates = (wants.normal && vertices.normals) || (wants.uv && vertices.uvs) ||
                   (wants.color && vertices.colors) || wants.position;
    linear_colors = wants.color && said && said->linear_colors;
    surface = textured ? said : nullptr;
    if (interpolates || textured)
      for (int k = 0; k < 3; ++k) clip[k] = nanite_cull::to_clip(to_clip, position(k));
    if (textured)
      for (int k = 0; k < 3; ++k) {
        corners.clip[k] = clip[k];
        corners.set_uv(*said, k, vertices.uvs + 2 * int64_t(corner[k]));
      }
    if (wants.normal && !vertices.normals) find_face_normal();
  }

  // `x` and `y` of the pixel.
  HD void weights(int px, int py, int width, int height, float* out) const {
    perspective_weights(clip, centre_x(px, width), centre_y(py, height), out);
  }

  HD void normal(const float* weight, float* out) const {
    if (!vertices.normals) {
      for (int a = 0; a < 3; ++a) out[a] = face_normal[a];
      return;
    }
    float value[3];
    blend<3>(vertices.normals, weight, value);
    to_world(value, out);
  }

  HD void uv(const float* weight, float* out) const {
    out[0] = out[1] = 0;
    if (vertices.uvs) blend<2>(vertices.uvs, weight, out);
  }

  HD void color(const float* weight, float* out) const {
    out[0] = out[1] = out[2] = out[3] = 1;
    if (vertices.colors) blend<4>(vertices.colors, weight, out);
  }

  // The texture at a pixel, white where there is none; needs `texture`.
  HD Texel texel(int px, int py, int width, int height) const {
    if (surface == nullptr) return {};
    return texel_at(*surface, corners, px, py, width, height);
  }

  template <int width>
  HD void blend(const float* values, const float* weight, float* out) const {
    const float* v[3];
    for (int k = 0; k < 3; ++k) v[k] = values + width * int64_t(corner[k]);
    for (int i = 0; i < width; ++i)  // exact where the corners are equal
      out[i] = (v[0][i] + weight[1] * (v[1][i] - v[0][i])) + weight[2] * (v[2][i] - v[0][i]);
  }

 private:
  HD void find_face_normal() {
    const float *p = position(0), *q = position(1), *r = position(2);
    float u[3], w[3];
    for (int a = 0; a < 3; ++a) u[a] = q[a] - p[a], w[a] = r[a] - p[a];
    const float n[3] = {u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]};
    const float size = most(most(magnitude(n[0]), magnitude(n[1])), magnitude(n[2]));
    const float scaled[3] = {n[0] / size, n[1] / size, n[2] / size};  // squares of tiny ones would vanish
    for (int a = 0; a < 3; ++a) face_normal[a] = 0;
    if (size > 0) to_world(scaled, face_normal);
  }

  // Normals go by the inverse transpose.
  HD void to_world(const float* n, float* out) const {
    float world[3], size = 0, square = 0;
    for (int a = 0; a < 3; ++a) {
      world[a] = inverse[a] * n[0] + inverse[3 + a] * n[1] + inverse[6 + a] * n[2];
      size = most(size, magnitude(world[a]));
    }
    if (size > 0)
      for (int a = 0; a < 3; ++a) world[a] /= size, square += world[a] * world[a];
    const float scale = square > 0 ? 1 / sqrtf(square) : 0;
    for (int a = 0; a < 3; ++a) out[a] = world[a] * scale;
  }
};

}  // namespace nanite_cull
