// What a material says of a pixel: its texture there, and whether there is a hole.
#pragma once

#include "core/interpolation.h"

namespace nanite_cull {

struct Surface {
  Texture texture;  // without texels: none
  Sampler sampler;
  float to_picture[6] = {1, 0, 0, 0, 1, 0};  // rows of 2x3: from (u, v down) of the mesh
  float cutoff = 0;                          // what has less alpha is a hole; of masked ones
  uint32_t masked = 0, two_sided = 0;
  uint32_t linear_colors = 0;  // the vertices' are linear; else as a display is sent them
};

// Materials with textures have numbers of their own over all assets, from `first` on; 0: all others.
HD inline uint32_t material_bin(const Surface* surface, uint32_t first, uint32_t material) {
  return surface && surface->texture.texels ? first + material : 0;
}

// The corners of a triangle as a surface needs them.
struct SurfaceCorners {
  ClipVertex clip[3];
  float uv[3][2] = {};         // in the picture
  float alpha[3] = {1, 1, 1};  // of the vertices' colours

  // `uv`: of the mesh, v up.
  HD void set_uv(const Surface& surface, int k, const float* mesh_uv) {
    const float u = mesh_uv[0], v = 1 - mesh_uv[1], *m = surface.to_picture;
    uv[k][0] = m[0] * u + m[1] * v + m[2];
    uv[k][1] = m[3] * u + m[4] * v + m[5];
  }
};

HD inline Texel texel_at(const Surface& surface, const SurfaceCorners& corners, int px, int py, int width,
                         int height) {
  if (surface.texture.texels == nullptr) return {};
  return sample(surface.texture, surface.sampler, footprint(corners.clip, corners.uv, px, py, width, height));
}

// Whether a pixel of a masked surface is there: alpha of texture and vertices, against the cutoff.
HD inline bool is_solid(const Surface& surface, const SurfaceCorners& corners, int px, int py, int width,
                        int height) {
  const Texel texel = texel_at(surface, corners, px, py, width, height);
  const float* a = corners.alpha;
  float alpha = a[0];
  if (a[1] != a[0] || a[2] != a[0]) {
    float weight[3];
    perspective_weights(corners.clip, centre_x(px, width), centre_y(py, height), weight);
    alpha = (a[0] + weight[1] * (a[1] - a[0])) + weight[2] * (a[2] - a[0]);
  }
  return texel.a * alpha >= surface.cutoff;
}

// Which pixels of a triangle are no holes.
struct Mask {
  const Surface* surface = nullptr;
  SurfaceCorners corners;
  int width = 0, height = 0;  // of the image

  HD bool operator()(int px, int py) const { return is_solid(*surface, corners, px, py, width, height); }
};

}  // namespace nanite_cull
