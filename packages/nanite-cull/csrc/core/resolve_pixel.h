// From a triangle to what a pixel means: the depth targets' motion and the base pass's attributes.
#pragma once

#include "core/drawn_triangle.h"
#include "core/records.h"
#include "core/srgb.h"

namespace nanite_cull {

// Planes of (height, width); null ones are left out. Where nothing was drawn: `none`, and zero vectors.
struct ResolveTargets {
  uint32_t* instance = nullptr;
  uint32_t* cluster = nullptr;   // of the instance's asset
  uint32_t* triangle = nullptr;  // of the instance's asset, counted over all its clusters
  uint32_t* level = nullptr;
  uint32_t* material = nullptr;
  float* normal = nullptr;    // (.., 3), world, unit: interpolated, or the triangle's where there are none
  float* uv = nullptr;        // (.., 2)
  float* color = nullptr;     // (.., 4); white where the asset has none
  float* velocity = nullptr;  // (.., 2), pixels to the right and down since the frame before; zero where
                              // there is none, and for what was behind the eye then

  HD Wants wants() const { return {normal != nullptr, uv != nullptr, color != nullptr, velocity != nullptr}; }
};

HD constexpr Wants albedo_wants() { return {false, false, true, false, true}; }

// Pixels that what is seen at a pixel has moved by; `before`: object to clip in the frame before.
HD inline void velocity_of(const DrawnTriangle& tri, const float* weight, const float* before,
                           const ImageSize& image, float* out) {
  float place[3];
  tri.blend<3>(tri.vertices.positions, weight, place);
  const ClipVertex now = to_clip(tri.to_clip, place), then = to_clip(before, place);
  out[0] = out[1] = 0;
  if (!(now.w > 0 && then.w > 0)) return;
  out[0] = (now.x / now.w - then.x / then.w) * (0.5f * float(image.width));
  out[1] = (then.y / then.w - now.y / now.w) * (0.5f * float(image.height));
}

// A pixel that shows `tri`, prepared for the targets. `before`: null where there is no frame before.
HD inline void resolve_pixel(const DrawnTriangle& tri, uint32_t instance, const float* before, int px, int py,
                             const ImageSize& image, const ResolveTargets& t) {
  const int64_t at = int64_t(py) * image.width + px;
  if (t.instance) t.instance[at] = instance;
  if (t.cluster) t.cluster[at] = tri.cluster;
  if (t.triangle) t.triangle[at] = tri.triangle;
  if (t.level) t.level[at] = tri.level;
  if (t.material) t.material[at] = tri.vertices.materials ? tri.material() : none;
  float weight[3] = {0, 0, 0};
  if (tri.interpolates) tri.weights(px, py, image.width, image.height, weight);
  if (t.normal) tri.normal(weight, t.normal + 3 * at);
  if (t.uv) tri.uv(weight, t.uv + 2 * at);
  if (t.color) tri.color(weight, t.color + 4 * at);
  if (t.velocity) {
    float* const out = t.velocity + 2 * at;
    out[0] = out[1] = 0;
    if (before) velocity_of(tri, weight, before, image, out);
  }
}

template <class T>
HD inline void fill(T* plane, int64_t at, int width, T value) {
  if (plane == nullptr) return;
  for (int i = 0; i < width; ++i) plane[width * at + i] = value;
}

// A pixel that shows nothing.
HD inline void resolve_nothing(int64_t at, const ResolveTargets& t) {
  fill(t.instance, at, 1, none), fill(t.cluster, at, 1, none), fill(t.triangle, at, 1, none);
  fill(t.level, at, 1, none), fill(t.material, at, 1, none);
  fill(t.normal, at, 3, 0.0f), fill(t.uv, at, 2, 0.0f), fill(t.color, at, 4, 0.0f);
  fill(t.velocity, at, 2, 0.0f);
}

// The linear colour of a pixel, of texture and vertices, into `out` (4). `light`: build/srgb.h's table.
HD inline void albedo_of(const DrawnTriangle& tri, int px, int py, const ImageSize& image, const float* light,
                         float* out) {
  float weight[3] = {0, 0, 0}, color[4];
  if (tri.interpolates) tri.weights(px, py, image.width, image.height, weight);
  tri.color(weight, color);
  if (!tri.linear_colors && tri.vertices.colors)
    for (int c = 0; c < 3; ++c) color[c] = light_of(light, color[c]);
  const Texel texel = tri.texel(px, py, image.width, image.height);
  out[0] = texel.r * color[0], out[1] = texel.g * color[1], out[2] = texel.b * color[2];
  out[3] = texel.a * color[3];
}

}  // namespace nanite_cull
