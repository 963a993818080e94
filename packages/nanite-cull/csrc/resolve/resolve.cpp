#include "resolve/resolve.h"

#include <cmath>

#include "native/parallel.h"

namespace nanite_cull {

namespace {

// One triangle, ready to be interpolated at pixels: perspective-correct barycentrics from the clip-space
// corners (Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous Coordinates", 1997).
struct Interpolator {
  uint32_t id = none;
  bool valid = false;
  const Asset* asset = nullptr;
  const Instance* instance = nullptr;
  uint32_t cluster = 0, triangle = 0;
  uint32_t corner[3] = {};
  double edge[3][3] = {};
  float face_normal[3] = {};

  void prepare(const Scene& scene, const View& view, const VisibleClusters& visible, uint32_t which) {
    id = which, valid = true;
    const Visible& v = visible.buffer[which >> triangle_bits];
    instance = &scene.instances[v.instance];
    asset = scene.assets[instance->asset].get();
    cluster = v.cluster;
    const Cluster& c = asset->clusters[cluster];
    triangle = c.triangle_begin + (which & ((1u << triangle_bits) - 1));
    double clip[3][3], p[3][3];
    float m[16];
    object_to_clip(view, *instance, m);
    for (int k = 0; k < 3; ++k) {
      corner[k] = asset->vertex_refs[c.vertex_begin + asset->triangles[3 * size_t(triangle) + k]];
      for (int a = 0; a < 3; ++a) p[k][a] = asset->positions[3 * size_t(corner[k]) + a];
      const int rows[3] = {0, 1, 3};
      for (int r = 0; r < 3; ++r) {
        const float* row = m + 4 * rows[r];
        clip[k][r] = row[0] * p[k][0] + row[1] * p[k][1] + row[2] * p[k][2] + row[3];
      }
    }
    for (int k = 0; k < 3; ++k) cross(clip[(k + 1) % 3], clip[(k + 2) % 3], edge[k]);
    double u[3], w[3], n[3];
    for (int a = 0; a < 3; ++a) u[a] = p[1][a] - p[0][a], w[a] = p[2][a] - p[0][a];
    cross(u, w, n);
    const double object_normal[3] = {n[0], n[1], n[2]};
    to_world(object_normal, face_normal);
  }

  static void cross(const double* a, const double* b, double* out) {
    out[0] = a[1] * b[2] - a[2] * b[1], out[1] = a[2] * b[0] - a[0] * b[2],
    out[2] = a[0] * b[1] - a[1] * b[0];
  }

  // Normals go by the inverse transpose.
  void to_world(const double* n, float* out) const {
    const float* inverse = instance->inverse;
    double world[3], square = 0;
    for (int a = 0; a < 3; ++a) {
      world[a] = inverse[a] * n[0] + inverse[3 + a] * n[1] + inverse[6 + a] * n[2];
      square += world[a] * world[a];
    }
    const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
    for (int a = 0; a < 3; ++a) out[a] = static_cast<float>(world[a] * scale);
  }

  void weights(const View& view, int px, int py, double* out) const {
    const double x = (px + 0.5) / view.width * 2 - 1, y = 1 - (py + 0.5) / view.height * 2;
    double sum = 0;
    for (int k = 0; k < 3; ++k) sum += out[k] = edge[k][0] * x + edge[k][1] * y + edge[k][2];
    for (int k = 0; k < 3; ++k) out[k] = sum != 0 ? out[k] / sum : 1.0 / 3;
  }

  void blend(const std::vector<float>& values, int width, const double* weight, double* out) const {
    for (int i = 0; i < width; ++i) {
      out[i] = 0;
      for (int k = 0; k < 3; ++k) out[i] += weight[k] * values[size_t(corner[k]) * width + i];
    }
  }
};

}  // namespace

void resolve(const Scene& scene, const View& view, const VisibleClusters& visible,
             const VisibilityBuffer& buffer, const ResolveTargets& t, int threads) {
  native::parallel_for(buffer.height, 16, threads, [&](int64_t first, int64_t last) {
    Interpolator tri;
    for (int64_t y = first; y < last; ++y)
      for (int x = 0; x < buffer.width; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        const bool drawn = buffer.depth[at] > 0;
        if (drawn && (!tri.valid || tri.id != buffer.id[at]))
          tri.prepare(scene, view, visible, buffer.id[at]);
        if (t.instance)
          t.instance[at] = drawn ? visible.buffer[buffer.id[at] >> triangle_bits].instance : none;
        if (t.cluster) t.cluster[at] = drawn ? tri.cluster : none;
        if (t.triangle) t.triangle[at] = drawn ? tri.triangle : none;
        if (t.level) t.level[at] = drawn ? tri.asset->clusters[tri.cluster].level : none;
        if (t.material)
          t.material[at] =
              drawn && !tri.asset->materials.empty() ? tri.asset->materials[tri.corner[0]] : none;
        double weight[3] = {0, 0, 0}, value[4] = {0, 0, 0, 0};
        if (drawn && (t.normal || t.uv || t.color)) tri.weights(view, x, static_cast<int>(y), weight);
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
          for (int a = 0; a < 2; ++a) t.uv[2 * at + a] = static_cast<float>(value[a]);
        }
        if (t.color) {
          if (drawn && !tri.asset->colors.empty())
            tri.blend(tri.asset->colors, 4, weight, value);
          else
            value[0] = value[1] = value[2] = value[3] = 0;
          for (int a = 0; a < 4; ++a) t.color[4 * at + a] = static_cast<float>(value[a]);
        }
      }
  });
}

}  // namespace nanite_cull
