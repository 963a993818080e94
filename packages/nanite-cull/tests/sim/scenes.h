// Scenes for tests of kernels: patches of height fields whose detail is a quadtree, so that no builder is
// needed, in places drawn by chance.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "build/hierarchy.h"
#include "build/surfaces.h"
#include "cull/cull.h"

namespace scenes {

using namespace nanite_cull;

constexpr int quads = 4;  // of a cluster, each way
constexpr float grow = 1 + 2 * lod_margin;

inline Sphere around(const Box& box) {
  Sphere s;
  float* const centre[3] = {&s.x, &s.y, &s.z};
  float square = 0;
  for (int a = 0; a < 3; ++a) {
    *centre[a] = (box.lo[a] + box.hi[a]) / 2;
    const float half = (box.hi[a] - box.lo[a]) / 2;
    square += half * half;
  }
  s.r = std::sqrt(square) * grow;
  return s;
}

inline Box joined(const Box& a, const Box& b) {
  Box out;
  for (int k = 0; k < 3; ++k) out.lo[k] = std::min(a.lo[k], b.lo[k]), out.hi[k] = std::max(a.hi[k], b.hi[k]);
  return out;
}

// Where a point (x, y) of the square [-1, 1]^2 lies.
using Shape = void (*)(float bumps, float* point);
inline void hills(float bumps, float* p) { p[2] = 0.25f * std::sin(bumps * p[0]) * std::cos(bumps * p[1]); }
inline void folded(float, float* p) { p[0] = 2 * std::fabs(p[0]) - 1, p[2] = 0; }  // half upon half, z = 0

// A patch of side x side clusters. `roots`: clusters each way of the coarsest level.
inline std::shared_ptr<const Asset> patch(int side, int roots, float bumps, Shape shape = hills) {
  Asset a;
  std::vector<std::vector<LodBounds>> made;  // of each level: the bounds of its clusters
  std::vector<uint32_t> first_group;
  uint32_t level = 0;
  for (int n = side; n >= roots; n /= 2, ++level) {
    const bool last = n / 2 < roots;
    first_group.push_back(static_cast<uint32_t>(a.groups.size()));
    std::vector<LodBounds> bounds;
    for (int g = 0; g < (last ? 1 : n * n / 4); ++g) {
      const auto group = static_cast<uint32_t>(a.groups.size());
      Group out;
      out.level = level, out.cluster_begin = static_cast<uint32_t>(a.clusters.size());
      out.cluster_count = last ? n * n : 4;
      Box whole;
      float error = 0, radius = 0;
      for (uint32_t k = 0; k < out.cluster_count; ++k) {
        const int i = last ? k / n : g / (n / 2) * 2 + k / 2, j = last ? k % n : g % (n / 2) * 2 + k % 2;
        Cluster c;
        c.vertex_begin = static_cast<uint32_t>(a.vertex_refs.size());
        c.triangle_begin = static_cast<uint32_t>(a.triangles.size() / 3);
        c.vertex_count = (quads + 1) * (quads + 1), c.triangle_count = 2 * quads * quads;
        c.group = group, c.level = level;
        c.longest_edge = 2.0f / static_cast<float>(n * quads) * 2;
        Box box = {{9, 9, 9}, {-9, -9, -9}};
        for (int v = 0; v <= quads; ++v)
          for (int u = 0; u <= quads; ++u) {
            const float x = -1 + 2 * static_cast<float>(i * quads + v) / static_cast<float>(n * quads),
                        y = -1 + 2 * static_cast<float>(j * quads + u) / static_cast<float>(n * quads);
            float p[3] = {x, y, 0};
            shape(bumps, p);
            a.vertex_refs.push_back(static_cast<uint32_t>(a.positions.size() / 3));
            a.positions.insert(a.positions.end(), p, p + 3);
            for (int axis = 0; axis < 3; ++axis)
              box.lo[axis] = std::min(box.lo[axis], p[axis]), box.hi[axis] = std::max(box.hi[axis], p[axis]);
          }
        for (int v = 0; v < quads; ++v)
          for (int u = 0; u < quads; ++u) {
            const auto q = static_cast<uint8_t>(v * (quads + 1) + u);
            const auto below = static_cast<uint8_t>(q + quads + 1);
            for (const int corner : {int(q), int(below), q + 1, q + 1, int(below), below + 1})
              a.triangles.push_back(static_cast<uint8_t>(corner));
          }
        LodBounds own{around(box), 0};
        if (level > 0) {
          const auto parent = static_cast<size_t>(i * n + j);  // groups of the finer level lie row by row
          c.source_group = first_group[level - 1] + static_cast<uint32_t>(parent);
          own = made[level - 1][parent];
        }
        a.clusters.push_back(c);
        ClusterBounds& b = a.bounds;
        for (int axis = 0; axis < 3; ++axis)
          b.lo[axis].push_back(box.lo[axis]), b.hi[axis].push_back(box.hi[axis]);
        b.x.push_back(own.sphere.x), b.y.push_back(own.sphere.y), b.z.push_back(own.sphere.z);
        b.r.push_back(own.sphere.r), b.error.push_back(own.error);
        whole = k == 0 ? box : joined(whole, box);
        error = std::max(error, own.error), radius = std::max(radius, own.sphere.r);
      }
      out.bounds.sphere = around(whole);
      out.bounds.sphere.r = 2 * out.bounds.sphere.r + radius;  // contains the spheres of its clusters
      out.bounds.error = last ? infinite_error : std::max(2 * error, 0.002f * static_cast<float>(bumps));
      a.groups.push_back(out), bounds.push_back(out.bounds);
    }
    made.push_back(bounds);
  }
  a.levels = level;
  build_hierarchy(a);
  return std::make_shared<const Asset>(std::move(a));
}

// The patch of three materials: a solid one, one whose texture has holes, one of two sides that is as thin as
// its vertices' colours.
inline std::shared_ptr<const Asset> leafy(const Asset& patch) {
  Asset a = patch;
  const size_t count = a.vertex_count();
  for (size_t v = 0; v < count; ++v) {
    const float x = a.positions[3 * v], y = a.positions[3 * v + 1];
    a.uvs.insert(a.uvs.end(), {1.5f * x, 2 * y + 0.3f * x});
    a.colors.insert(a.colors.end(), {1, 1, 1, 0.5f + 0.5f * std::cos(9 * x + y)});
    a.materials.push_back(v % 7 < 3 ? 1 : v % 7 < 5 ? 2 : 0);
  }
  constexpr int side = 12;
  std::mt19937 random(5);
  std::vector<uint8_t> rgba(4 * side * side);
  for (uint8_t& byte : rgba) byte = static_cast<uint8_t>(random() % 256);
  Surfaces surfaces;
  surfaces.textures.push_back(std::make_shared<const MipChain>(rgba.data(), side, side, 1));
  surfaces.table.resize(3);
  surfaces.table[1].texture = surfaces.textures[0]->texture();
  surfaces.table[1].sampler.wrap[1] = Wrap::mirror;
  surfaces.table[1].masked = surfaces.table[2].masked = surfaces.table[2].two_sided = 1;
  surfaces.table[1].cutoff = 0.4f, surfaces.table[2].cutoff = 0.5f;
  a.surfaces = std::make_shared<const Surfaces>(std::move(surfaces));
  return std::make_shared<const Asset>(std::move(a));
}

// Reversed Z, without a far plane.
inline View perspective(const double* eye, const double* towards, double fov, double near_distance, int width,
                        int height, float threshold) {
  View view;
  double back[3], right[3], up[3], length = 0;
  for (int i = 0; i < 3; ++i) back[i] = eye[i] - towards[i], length += back[i] * back[i];
  for (double& x : back) x /= std::sqrt(length);
  const double world_up[3] = {0.1, 0.2, 1};
  for (int i = 0; i < 3; ++i)
    right[i] = world_up[(i + 1) % 3] * back[(i + 2) % 3] - world_up[(i + 2) % 3] * back[(i + 1) % 3];
  length = std::sqrt(right[0] * right[0] + right[1] * right[1] + right[2] * right[2]);
  for (double& x : right) x /= length;
  for (int i = 0; i < 3; ++i)
    up[i] = back[(i + 1) % 3] * right[(i + 2) % 3] - back[(i + 2) % 3] * right[(i + 1) % 3];
  const double f = 1 / std::tan(fov / 2);
  for (int j = 0; j < 4; ++j) {
    const bool w = j == 3;
    view.relative_to_clip[j] = w ? 0 : f * height / width * right[j];
    view.relative_to_clip[4 + j] = w ? 0 : f * up[j];
    view.relative_to_clip[8 + j] = w ? near_distance : 0;
    view.relative_to_clip[12 + j] = w ? 0 : -back[j];
  }
  std::copy_n(eye, 3, view.eye);
  view.near_distance = static_cast<float>(near_distance);
  view.pixels_per_unit = static_cast<float>(f * height / 2);
  view.threshold = threshold;
  view.width = width, view.height = height;
  return view;
}

struct Random {
  std::mt19937 engine;
  explicit Random(uint64_t seed) : engine(static_cast<unsigned>(seed)) {}
  double operator()(double lo, double hi) { return std::uniform_real_distribution<double>(lo, hi)(engine); }
};

// Folded patches in one plane, upon each other: of deep and of flat hierarchies, of one cluster, many sizes,
// with fronts and backs. From an eye before the plane all that a pixel sees, instances, clusters and
// triangles of one cluster, has one depth, to the last bit.
inline void fill_plane(Scene& scene, int count, Random& random) {
  const std::shared_ptr<const Asset> assets[4] = {patch(8, 1, 5, folded), patch(4, 1, 2, folded),
                                                  patch(1, 1, 1, folded), patch(4, 2, 3, folded)};
  const double sizes[5] = {3, 1.2, 0.5, 0.2, 1e6};  // the last beyond the guard band
  for (int i = 0; i < count; ++i) {
    const double size = sizes[i % 8 == 5 ? 4 : static_cast<int>(random(0, 4)) & 3],
                 across = i % 2 ? -size : size;
    const double place[12] = {across, 0, 0, random(-1, 1), 0, size, 0, random(-1, 1), 0, 0, 1, 0};
    scene.add(scene.add_asset(assets[static_cast<int>(random(0, 4)) & 3]), place, 1, 1);
  }
}

// `count` instances of four assets, turned, stretched, every third mirrored, every tenth hidden. `leaves`:
// half of the assets are leafy.
inline void fill(Scene& scene, int count, double spread, Random& random, bool leaves = false) {
  std::shared_ptr<const Asset> assets[4] = {patch(8, 1, 5), patch(4, 1, 2), patch(1, 1, 1), patch(4, 2, 3)};
  if (leaves)
    for (int i = 1; i < 3; ++i) assets[i] = leafy(*assets[i]);
  for (int i = 0; i < count; ++i) {
    double m[12];
    for (int k = 0; k < 12; ++k) m[k] = k % 4 == 3 ? random(-spread, spread) : random(-0.6, 0.6);
    for (int k = 0; k < 3; ++k) m[5 * k] += i % 3 == 0 && k == 0 ? -1.5 : 1.5;
    const uint32_t asset = scene.add_asset(assets[static_cast<int>(random(0, 4)) & 3]);
    scene.add(asset, m, 1, 1);
    if (i % 10 == 9) scene.hide(i, 1, true);
  }
}

}  // namespace scenes
