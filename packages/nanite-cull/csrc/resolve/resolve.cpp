#include "resolve/resolve.h"

#include <cmath>

#include "core/interpolation.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

// One triangle, ready to be interpolated at pixels.
struct Interpolator {
  uint32_t id = none;
  bool valid = false;
  const Asset* asset = nullptr;
  const Draw* draw = nullptr;
  uint32_t cluster = 0, triangle = 0;
  uint32_t corner[3] = {};
  ClipVertex clip[3] = {};
  float face_normal[3] = {};

  bool interpolates = false;  // some target needs weights

  void prepare(const Draws& draws, const VisibleClusters& visible, const ResolveTargets& targets,
               uint32_t which) {
    id = which, valid = true;
    const uint32_t slot = which >> triangle_bits;
    draw = &draws.draws[draws.of[slot]];
    asset = draws.assets[draw->asset].get();
    cluster = visible.buffer[slot].cluster;
    const Cluster& c = asset->clusters[cluster];
    triangle = c.triangle_begin + (which & ((1u << triangle_bits) - 1));
    const float* p[3];
    for (int k = 0; k < 3; ++k) {
      corner[k] = asset->vertex_refs[c.vertex_begin + asset->triangles[3 * size_t(triangle) + k]];
      p[k] = &asset->positions[3 * size_t(corner[k])];
    }
    interpolates = (targets.normal && !asset->normals.empty()) || (targets.uv && !asset->uvs.empty()) ||
                   (targets.color && !asset->colors.empty());
    for (int k = 0; k < 3 && interpolates; ++k) clip[k] = to_clip(draw->to_clip, p[k]);
    if (!targets.normal || !asset->normals.empty()) return;
    float u[3], w[3];
    for (int a = 0; a < 3; ++a) u[a] = p[1][a] - p[0][a], w[a] = p[2][a] - p[0][a];
    const float n[3] = {u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]};
    const float size = most(most(magnitude(n[0]), magnitude(n[1])), magnitude(n[2]));
    const float scaled[3] = {n[0] / size, n[1] / size, n[2] / size};  // squares of tiny ones would vanish
    if (size > 0) to_world(scaled, face_normal);
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
    const float x = (float(px) + 0.5f) / float(view.width) * 2 - 1,
                y = 1 - (float(py) + 0.5f) / float(view.height) * 2;
    perspective_weights(clip, x, y, out);
  }

  void blend(const std::vector<float>& values, int width, const float* weight, float* out) const {
    const float* v[3] = {&values[size_t(corner[0]) * width], &values[size_t(corner[1]) * width],
                         &values[size_t(corner[2]) * width]};
    for (int i = 0; i < width; ++i)  // exact where the corners are equal
      out[i] = (v[0][i] + weight[1] * (v[1][i] - v[0][i])) + weight[2] * (v[2][i] - v[0][i]);
  }
};

}  // namespace

void resolve(const Draws& draws, const View& view, const VisibleClusters& visible,
             const VisibilityBuffer& buffer, const ResolveTargets& t, int threads) {
  native::parallel_for(buffer.height, 16, threads, [&](int64_t first, int64_t last) {
    Interpolator tri;
    for (int64_t y = first; y < last; ++y)
      for (int x = 0; x < buffer.width; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        const bool drawn = buffer.depth[at] > 0;
        if (drawn && (!tri.valid || tri.id != buffer.id[at])) tri.prepare(draws, visible, t, buffer.id[at]);
        if (t.instance)
          t.instance[at] = drawn ? visible.buffer[buffer.id[at] >> triangle_bits].instance : none;
        if (t.cluster) t.cluster[at] = drawn ? tri.cluster : none;
        if (t.triangle) t.triangle[at] = drawn ? tri.triangle : none;
        if (t.level) t.level[at] = drawn ? tri.asset->clusters[tri.cluster].level : none;
        if (t.material)
          t.material[at] =
              drawn && !tri.asset->materials.empty() ? tri.asset->materials[tri.corner[0]] : none;
        float weight[3] = {0, 0, 0}, value[4] = {0, 0, 0, 0};
        if (drawn && tri.interpolates) tri.weights(view, x, static_cast<int>(y), weight);
        if (t.normal) {
          float* out = t.normal + 3 * at;
          if (!drawn) {
            out[0] = out[1] = out[2] = 0;
          } else if (tri.asset->normals.empty()) {
            for (int a = 0; a < 3; ++a) out[a] = tri.face_normal[a];
          } else {
            tri.blend(tri.asset->normals, 3, weight, value);
            tri.to_world(value, out);
          }
        }
        if (t.uv) {
          if (drawn && !tri.asset->uvs.empty())
            tri.blend(tri.asset->uvs, 2, weight, value);
          else
            value[0] = value[1] = 0;
          for (int a = 0; a < 2; ++a) t.uv[2 * at + a] = value[a];
        }
        if (t.color) {
          if (drawn && !tri.asset->colors.empty())
            tri.blend(tri.asset->colors, 4, weight, value);
          else
            value[0] = value[1] = value[2] = value[3] = drawn ? 1.0f : 0.0f;
          for (int a = 0; a < 4; ++a) t.color[4 * at + a] = value[a];
        }
      }
  });
}

}  // namespace nanite_cull
