// One triangle of the visibility buffer and its attributes at a pixel.
#pragma once

#include <cmath>

#include "build/surfaces.h"
#include "cull/cull.h"

namespace nanite_cull {

// Which attributes are asked of it.
struct Wants {
  bool normal, uv, color, position;
  bool texture = false;
};

// One triangle, ready to be interpolated at pixels.
struct Interpolator {
  uint32_t id = none;
  bool valid = false;
  const Asset* asset = nullptr;
  const Vertices* vertices = nullptr;
  const Draw* draw = nullptr;
  uint32_t cluster = 0, triangle = 0;
  uint32_t corner[3] = {};  // of the vertices
  ClipVertex clip[3] = {};
  float face_normal[3] = {};

  bool interpolates = false;         // some target needs weights
  bool linear_colors = false;        // of the vertices; else as a display is sent them
  const Surface* surface = nullptr;  // whose texture is wanted and there
  SurfaceCorners corners = {};

  void prepare(const Draws& draws, const VisibleClusters& visible, uint32_t which, const Wants& wants) {
    id = which, valid = true;
    const uint32_t slot = which >> triangle_bits;
    draw = &draws.draws[draws.of[slot]];
    asset = draws.assets[draw->asset].get();
    cluster = visible.buffer[slot].cluster;
    const Cluster& c = asset->clusters[cluster];
    const ClusterGeometry geometry = draws.geometry(draw->asset, cluster);
    vertices = geometry.vertices;
    const uint32_t local = which & ((1u << triangle_bits) - 1);
    triangle = c.triangle_begin + local;
    const float* p[3];
    for (int k = 0; k < 3; ++k) {
      corner[k] = geometry.vertex(geometry.triangles[3 * local + k]);
      p[k] = &vertices->positions[3 * size_t(corner[k])];
    }
    interpolates = (wants.normal && !vertices->normals.empty()) || (wants.uv && !vertices->uvs.empty()) ||
                   (wants.color && !vertices->colors.empty()) || wants.position;
    for (int k = 0; k < 3 && interpolates; ++k) clip[k] = to_clip(draw->to_clip, p[k]);
    const Surface* const said = wants.color && asset->surfaces ? asset->surfaces->of(material()) : nullptr;
    linear_colors = said && said->linear_colors;
    surface = nullptr;
    if (wants.texture && asset->surfaces && !vertices->uvs.empty()) find_texture(p);
    if (!wants.normal || !vertices->normals.empty()) return;
    float u[3], w[3];
    for (int a = 0; a < 3; ++a) u[a] = p[1][a] - p[0][a], w[a] = p[2][a] - p[0][a];
    const float n[3] = {u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]};
    const float size = most(most(magnitude(n[0]), magnitude(n[1])), magnitude(n[2]));
    const float scaled[3] = {n[0] / size, n[1] / size, n[2] / size};  // squares of tiny ones would vanish
    if (size > 0) to_world(scaled, face_normal);
  }

  void find_texture(const float* const* p) {
    const Surface* found = asset->surfaces->of(material());
    if (found == nullptr || found->texture.texels == nullptr) return;
    surface = found;
    for (int k = 0; k < 3; ++k) {
      corners.clip[k] = to_clip(draw->to_clip, p[k]);
      corners.set_uv(*surface, k, &vertices->uvs[2 * size_t(corner[k])]);
    }
  }

  // Normals go by the inverse transpose.
  void to_world(const float* n, float* out) const {
    const float* inverse = draw->inverse;
    float world[3], size = 0, square = 0;
    for (int a = 0; a < 3; ++a) {
      world[a] = inverse[a] * n[0] + inverse[3 + a] * n[1] + inverse[6 + a] * n[2];
      size = most(size, magnitude(world[a]));
    }
    for (int a = 0; a < 3 && size > 0; ++a) world[a] /= size, square += world[a] * world[a];
    const float scale = square > 0 ? 1 / std::sqrt(square) : 0;
    for (int a = 0; a < 3; ++a) out[a] = world[a] * scale;
  }

  void weights(const View& view, int px, int py, float* out) const {
    perspective_weights(clip, centre_x(px, view.width), centre_y(py, view.height), out);
  }

  uint32_t material() const { return vertices->materials.empty() ? 0 : vertices->materials[corner[0]]; }

  // The texture at a pixel, white where there is none; needs `uv`.
  Texel texel(const View& view, int px, int py) const {
    if (surface == nullptr) return {};
    return texel_at(*surface, corners, px, py, view.width, view.height);
  }

  void normal(const float* weight, float* out) const {
    if (vertices->normals.empty()) {
      for (int a = 0; a < 3; ++a) out[a] = face_normal[a];
      return;
    }
    float value[3];
    blend(vertices->normals, 3, weight, value);
    to_world(value, out);
  }

  void color(const float* weight, float* out) const {
    if (vertices->colors.empty())
      out[0] = out[1] = out[2] = out[3] = 1;
    else
      blend(vertices->colors, 4, weight, out);
  }

  void blend(const std::vector<float>& values, int width, const float* weight, float* out) const {
    const float* v[3] = {&values[size_t(corner[0]) * width], &values[size_t(corner[1]) * width],
                         &values[size_t(corner[2]) * width]};
    for (int i = 0; i < width; ++i)  // exact where the corners are equal
      out[i] = (v[0][i] + weight[1] * (v[1][i] - v[0][i])) + weight[2] * (v[2][i] - v[0][i]);
  }
};

// The triangles of the last few hundred pixels, prepared: most are met again a row below.
class RecentTriangles {
 public:
  void forget() {
    for (Interpolator& triangle : recent_) triangle.valid = false;
  }
  // Asks the memory for a triangle's positions.
  void expect(const Draws& draws, const VisibleClusters& visible, uint32_t id) {
    if (id == expected_) return;
    expected_ = id;
    const Interpolator& triangle = slot(id);
    if (triangle.valid && triangle.id == id) return;
    const uint32_t which = id >> triangle_bits;
    const ClusterGeometry geometry =
        draws.geometry(draws.draws[draws.of[which]].asset, visible.buffer[which].cluster);
    const uint8_t* local = geometry.triangles + 3 * (id & ((1u << triangle_bits) - 1));
    for (int k = 0; k < 3; ++k) __builtin_prefetch(geometry.position(local[k]));
  }
  const Interpolator& of(const Draws& draws, const VisibleClusters& visible, uint32_t id,
                         const Wants& wants) {
    Interpolator& triangle = slot(id);
    if (!triangle.valid || triangle.id != id) triangle.prepare(draws, visible, id, wants);
    return triangle;
  }

 private:
  static constexpr int bits = 9;
  Interpolator& slot(uint32_t id) { return recent_[(id * 0x9E3779B1u) >> (32 - bits)]; }

  uint32_t expected_ = none;
  Interpolator recent_[1 << bits];
};

}  // namespace nanite_cull
