// The triangle of a patch that is nearest to a point: a tree of boxes, sixteen children a node, over fours of
// triangles in the order in which they come (those of a cluster are neighbours). Four triangles or boxes are
// measured at once, in vectors that every machine has: the same bits everywhere.
// Point to triangle after Ericson, "Real-Time Collision Detection" (2005), 5.1.5.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace nanite_cull {

struct Vec {
  float x, y, z;
};
inline Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec operator*(float s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
inline float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec cross(Vec a, Vec b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class V>
V lanewise_least(V a, V b) {
  return a < b ? a : b;
}
template <class V>
V lanewise_most(V a, V b) {
  return a > b ? a : b;
}

class TriangleTree {
 public:
  // Borrows both arrays: (vertices, 3) positions and three corners for each triangle, at least one.
  TriangleTree(const std::vector<float>& positions, const std::vector<uint32_t>& indices);

  Vec vertex(uint32_t v) const { return {p_[3 * size_t(v)], p_[3 * size_t(v) + 1], p_[3 * size_t(v) + 2]}; }
  Vec corner(uint32_t triangle, int c) const { return vertex(indices_[3 * size_t(triangle) + c]); }
  uint32_t index(uint32_t triangle, int c) const { return indices_[3 * size_t(triangle) + c]; }

  // Squared distance to one triangle: that of some point of it, so never too small.
  float to_triangle(Vec p, uint32_t t) const { return distances(leaves_[t / 4], p)[t % 4]; }

  // The nearest triangle, and its squared distance. `hint` is any triangle, best a near one. The search ends
  // early, at what it has found by then, where enough(triangle, square) says so.
  template <class Enough>
  uint32_t nearest(Vec p, uint32_t hint, float& square, Enough&& enough) const;
  uint32_t nearest(Vec p, uint32_t hint, float& square) const {
    return nearest(p, hint, square, [](uint32_t, float) { return false; });
  }

 private:
  typedef float Lanes __attribute__((vector_size(16)));
  struct Leaf {  // four triangles: a corner, the edges from it, and what the projections divide by
    Lanes a[3], ab[3], ac[3], ab_ab, ab_ac, ac_ac, per_ab, per_ac, per_bc, per_area;
  };
  static constexpr uint32_t width = 16;
  struct Node {  // the boxes of its children, four by four
    Lanes lo[width / 4][3], hi[width / 4][3];
  };
  static Lanes distances(const Leaf& leaf, Vec p);
  static Lanes distances(const Lanes* lo, const Lanes* hi, Vec p);
  // Bit i: lane i is below x.
  static uint32_t below(Lanes values, float x) {
    const Lanes limit = {x, x, x, x};
#if defined(__SSE2__)
    return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmplt_ps(values, limit)));
#else
    const auto less = values < limit;
    return (less[0] & 1) | (less[1] & 2) | (less[2] & 4) | (less[3] & 8);
#endif
  }
  void set_leaf(uint32_t leaf);
  void add_level(size_t children);

  static constexpr int most_waiting = 8 * width;  // 2^32 triangles have eight levels

  const std::vector<float>& p_;
  const std::vector<uint32_t>& indices_;
  std::vector<Leaf> leaves_;
  std::vector<Node> nodes_;         // level by level, those over the leaves first
  std::vector<uint32_t> level_of_;  // where each level begins in nodes_
};

// The least of the distances to the three edges and, where the projection falls inside, to that point.
inline TriangleTree::Lanes TriangleTree::distances(const Leaf& f, Vec p) {
  const Lanes zero = {0, 0, 0, 0}, one = {1, 1, 1, 1};
  const Lanes x = p.x - f.a[0], y = p.y - f.a[1], z = p.z - f.a[2];
  const Lanes ap_ab = x * f.ab[0] + y * f.ab[1] + z * f.ab[2];
  const Lanes ap_ac = x * f.ac[0] + y * f.ac[1] + z * f.ac[2];
  // the point a + v ab + w ac
  auto to = [&](Lanes v, Lanes w) {
    const Lanes i = x - v * f.ab[0] - w * f.ac[0], j = y - v * f.ab[1] - w * f.ac[1],
                k = z - v * f.ab[2] - w * f.ac[2];
    return i * i + j * j + k * k;
  };
  auto unit = [&](Lanes t) { return lanewise_least(lanewise_most(t, zero), one); };
  Lanes least = to(unit(ap_ab * f.per_ab), zero);
  least = lanewise_least(least, to(zero, unit(ap_ac * f.per_ac)));
  // along bc: (p - b) . (ac - ab)
  const Lanes t = unit((ap_ac - ap_ab - f.ab_ac + f.ab_ab) * f.per_bc);
  least = lanewise_least(least, to(one - t, t));
  const Lanes v = (f.ac_ac * ap_ab - f.ab_ac * ap_ac) * f.per_area,
              w = (f.ab_ab * ap_ac - f.ab_ac * ap_ab) * f.per_area;
  const Lanes inside = to(lanewise_most(v, zero), lanewise_most(w, zero));
  const Lanes outward = lanewise_least(lanewise_least(v, w), one - v - w);
  return outward >= zero ? lanewise_least(least, inside) : least;
}

inline TriangleTree::Lanes TriangleTree::distances(const Lanes* lo, const Lanes* hi, Vec p) {
  const Lanes zero = {0, 0, 0, 0};
  auto gap = [&](int a, float x) { return lanewise_most(lanewise_most(lo[a] - x, x - hi[a]), zero); };
  const Lanes x = gap(0, p.x), y = gap(1, p.y), z = gap(2, p.z);
  return x * x + y * y + z * z;
}

template <class Enough>
uint32_t TriangleTree::nearest(Vec p, uint32_t hint, float& square, Enough&& enough) const {
  uint32_t best = hint;
  square = to_triangle(p, hint);
  if (enough(best, square)) return best;
  struct Waiting {
    float square;
    uint32_t level, index;  // level 0: a leaf
  } stack[most_waiting];
  int size = 0;
  stack[size++] = {-1, static_cast<uint32_t>(level_of_.size()), 0};
  while (size > 0) {
    const Waiting at = stack[--size];
    if (!(at.square < square)) continue;
    if (at.level == 0) {
      const Lanes found = distances(leaves_[at.index], p);
      uint32_t nearer = below(found, square);
      if (nearer == 0) continue;
      for (; nearer; nearer &= nearer - 1) {
        const uint32_t lane = __builtin_ctz(nearer), t = 4 * at.index + lane;
        if (found[lane] < square && t < indices_.size() / 3) square = found[lane], best = t;
      }
      if (enough(best, square)) return best;
      continue;
    }
    const Node& node = nodes_[level_of_[at.level - 1] + at.index];
    const int first = size;
    for (uint32_t four = 0; four < width / 4; ++four) {
      const Lanes gaps = distances(node.lo[four], node.hi[four], p);
      for (uint32_t near = below(gaps, square); near; near &= near - 1) {
        const uint32_t lane = __builtin_ctz(near);
        stack[size++] = {gaps[lane], at.level - 1, width * at.index + 4 * four + lane};
        // the nearest child is looked at first
        if (size - 1 > first && stack[size - 1].square > stack[size - 2].square)
          std::swap(stack[size - 1], stack[size - 2]);
      }
    }
  }
  return best;
}

}  // namespace nanite_cull
