#include "build/certify.h"

#include <algorithm>
#include <cmath>

#include "build/triangle_tree.h"
#include "core/records.h"

namespace nanite_cull {

namespace {

constexpr float rounding = 2e-6f;        // of a distance inside a patch, in relation to its diagonal
constexpr float between_samples = 1.5f;  // the peak between measured points, by what they say at least

// Where a coarser triangle is measured: its middle, and that of the side opposite to each corner.
constexpr float samples[][3] = {
    {1 / 3.0f, 1 / 3.0f, 1 / 3.0f}, {0, 0.5f, 0.5f}, {0.5f, 0, 0.5f}, {0.5f, 0.5f, 0}};

// One corner of a finer triangle: where it is, the coarser triangle nearest to it, and how near.
struct Point {
  Vec at;
  uint32_t hit;
  float square;
};

Vec unit_normal(const TriangleTree& tree, uint32_t t) {
  const Vec n = cross(tree.corner(t, 1) - tree.corner(t, 0), tree.corner(t, 2) - tree.corner(t, 0));
  const float length = std::sqrt(dot(n, n));
  return length > 0 ? (1 / length) * n : Vec{0, 0, 0};
}

// How far the edge from u to v, whose ends are nearest to different triangles, lies from the coarser patch
// between them, or `enough` where it is no more than that. Where the two share an edge the distance peaks as
// the edge crosses the plane that halves their angle; elsewhere its middle is measured.
float roof(const TriangleTree& coarse, const Point& u, const Point& v, float enough) {
  Vec shared[3];
  int count = 0;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      if (coarse.index(u.hit, i) == coarse.index(v.hit, j) && count < 3)
        shared[count++] = coarse.corner(u.hit, i);
  if (count == 2) {
    const Vec plane = cross(shared[1] - shared[0], unit_normal(coarse, u.hit) + unit_normal(coarse, v.hit));
    const float from = dot(plane, u.at - shared[0]), to = dot(plane, v.at - shared[0]),
                t = from / (from - to);
    if (t >= 0 && t <= 1) {
      const Vec at = u.at + t * (v.at - u.at);
      return std::sqrt(std::min(coarse.to_triangle(at, u.hit), coarse.to_triangle(at, v.hit)));
    }
  }
  const float least = enough / between_samples;
  const Vec middle = 0.5f * (u.at + v.at);
  float square;
  const uint32_t hint = coarse.to_triangle(middle, v.hit) < coarse.to_triangle(middle, u.hit) ? v.hit : u.hit;
  coarse.nearest(middle, hint, square, [&](uint32_t, float found) { return found <= least * least; });
  return between_samples * std::sqrt(square);
}

// Which connected parts of a patch have a vertex that stays.
class Kept {
 public:
  Kept(const std::vector<uint32_t>& indices, const std::vector<uint8_t>& stays) {
    if (reaches_all(indices, stays)) return;
    parent_.resize(stays.size()), kept_.assign(stays.size(), 0);
    for (uint32_t v = 0; v < stays.size(); ++v) parent_[v] = v;
    for (size_t i = 0; i < indices.size(); i += 3)
      join(indices[i], indices[i + 1]), join(indices[i], indices[i + 2]);
    for (uint32_t v = 0; v < stays.size(); ++v)
      if (stays[v]) kept_[root(v)] = 1;
  }
  bool operator()(uint32_t vertex) { return kept_.empty() || kept_[root(vertex)]; }

  // The vertices of each part that has none.
  std::vector<std::vector<uint32_t>> gone(const std::vector<uint32_t>& indices) {
    std::vector<std::vector<uint32_t>> out;
    std::vector<uint32_t> number(kept_.size(), none);
    std::vector<uint8_t> listed(kept_.size(), 0);
    for (size_t i = 0; i < indices.size() && !kept_.empty(); ++i) {
      const uint32_t v = indices[i], r = root(v);
      if (kept_[r] || listed[v]) continue;
      if (number[r] == none) number[r] = static_cast<uint32_t>(out.size()), out.emplace_back();
      out[number[r]].push_back(v), listed[v] = 1;
    }
    return out;
  }

 private:
  // A few walks over the triangles, each marking what it touches: the common case, in little time.
  static bool reaches_all(const std::vector<uint32_t>& indices, std::vector<uint8_t> marked) {
    for (int walk = 0; walk < 3; ++walk) {
      bool all = true;
      for (size_t i = 0; i < indices.size(); i += 3) {
        const uint8_t any = marked[indices[i]] | marked[indices[i + 1]] | marked[indices[i + 2]];
        for (int c = 0; c < 3; ++c) marked[indices[i + c]] = any;
        all = all && any;
      }
      if (all) return true;
    }
    return false;
  }
  uint32_t root(uint32_t v) {
    while (parent_[v] != v) v = parent_[v] = parent_[parent_[v]];
    return v;
  }
  void join(uint32_t a, uint32_t b) { parent_[root(a)] = root(b); }

  std::vector<uint32_t> parent_;
  std::vector<uint8_t> kept_;  // of roots; empty where every part has one
};

float diagonal(const std::vector<float>& positions, const std::vector<uint32_t>& vertices) {
  float square = 0;
  for (int a = 0; a < 3; ++a) {
    float lo = infinite_error, hi = -infinite_error;
    for (uint32_t v : vertices)
      lo = std::min(lo, positions[3 * size_t(v) + a]), hi = std::max(hi, positions[3 * size_t(v) + a]);
    square += (hi - lo) * (hi - lo);
  }
  return std::sqrt(square);
}

float debt_of(const std::vector<float>& debt, size_t triangle) { return debt.empty() ? 0 : debt[triangle]; }

// The edges of a patch, each once, listed at their smaller vertex.
class EdgeTable {
 public:
  struct Edge {
    uint32_t other;
    float own;  // the largest debt of the triangles on it
  };
  EdgeTable(const std::vector<uint32_t>& indices, const std::vector<float>* debt, size_t vertices)
      : begin_(vertices + 1, 0) {
    for (size_t i = 0; i < indices.size(); ++i) ++begin_[std::min(indices[i], next(indices, i)) + 1];
    for (size_t v = 0; v < vertices; ++v) begin_[v + 1] += begin_[v];
    edges_.resize(begin_.back());
    end_.assign(begin_.begin(), begin_.end() - 1);
    for (size_t i = 0; i < indices.size(); ++i) {
      const uint32_t a = std::min(indices[i], next(indices, i)), b = std::max(indices[i], next(indices, i));
      const float own = debt ? debt_of(*debt, i / 3) : 0;
      if (Edge* edge = find(a, b))
        edge->own = std::max(edge->own, own);
      else
        edges_[end_[a]++] = {b, own};
    }
  }
  bool has(uint32_t a, uint32_t b) const {
    return const_cast<EdgeTable*>(this)->find(std::min(a, b), std::max(a, b)) != nullptr;
  }
  template <class Body>
  void each(Body&& body) const {
    for (uint32_t a = 0; a < end_.size(); ++a)
      for (uint32_t e = begin_[a]; e < end_[a]; ++e) body(a, edges_[e].other, edges_[e].own);
  }

 private:
  static uint32_t next(const std::vector<uint32_t>& indices, size_t i) {
    return indices[i % 3 == 2 ? i - 2 : i + 1];
  }
  Edge* find(uint32_t a, uint32_t b) {
    for (uint32_t e = begin_[a]; e < end_[a]; ++e)
      if (edges_[e].other == b) return &edges_[e];
    return nullptr;
  }
  std::vector<uint32_t> begin_, end_;
  std::vector<Edge> edges_;
};

// From the patch's first corner: small numbers lose less.
std::vector<float> about_first(const std::vector<float>& positions) {
  std::vector<float> out(positions.size());
  for (size_t i = 0; i < positions.size(); ++i) out[i] = positions[i] - positions[i % 3];
  return out;
}

}  // namespace

float certify(const std::vector<float>& where, const PatchSurface& before, const std::vector<uint32_t>& after,
              std::vector<float>& debt) {
  const std::vector<float> positions = about_first(where);
  const size_t vertices = positions.size() / 3;
  const float slack = rounding * diagonal(positions, before.indices);
  const TriangleTree coarse(positions, after), fine(positions, before.indices);
  debt.assign(after.size() / 3, 0);

  // Corners that stay touch the coarser patch; the others look for their nearest triangle, starting from
  // where a neighbour found its own.
  std::vector<Point> points(vertices);
  std::vector<uint8_t> known(vertices, 0), stays(vertices, 0);
  for (size_t i = 0; i < after.size(); ++i) {
    points[after[i]] = {coarse.vertex(after[i]), static_cast<uint32_t>(i / 3), 0};
    known[after[i]] = stays[after[i]] = 1;
  }
  Kept kept(before.indices, stays);

  float largest = 0;
  uint32_t hint = 0;
  for (size_t i = 0; i < before.indices.size(); i += 3) {
    const uint32_t* v = &before.indices[i];
    if (!kept(v[0])) continue;
    for (int c = 0; c < 3; ++c)
      if (known[v[c]]) hint = points[v[c]].hit;
    for (int c = 0; c < 3; ++c) {
      if (known[v[c]]) continue;
      Point& p = points[v[c]];
      p.at = coarse.vertex(v[c]);
      p.hit = hint = coarse.nearest(p.at, hint, p.square);
      known[v[c]] = 1;
    }
  }
  const EdgeTable edges(before.indices, &before.debt, vertices), coarse_edges(after, nullptr, vertices);
  auto has_corner = [&](uint32_t triangle, uint32_t vertex) {
    return coarse.index(triangle, 0) == vertex || coarse.index(triangle, 1) == vertex ||
           coarse.index(triangle, 2) == vertex;
  };
  auto owe = [&](uint32_t hit, float distance) { debt[hit] = std::max(debt[hit], distance); };
  edges.each([&](uint32_t a, uint32_t b, float own) {
    if (!kept(a)) return;
    for (uint32_t v : {a, b}) owe(points[v].hit, own + std::sqrt(points[v].square));
  });
  edges.each([&](uint32_t a, uint32_t b, float own) {
    if (!kept(a)) return;
    const Point &p = points[a], &q = points[b];
    // an edge of which one triangle holds both ends bends nowhere
    if (p.hit == q.hit || (stays[a] && has_corner(q.hit, a)) || (stays[b] && has_corner(p.hit, b))) return;
    if (stays[a] && stays[b] && coarse_edges.has(a, b)) return;
    const float owed = std::min(debt[p.hit], debt[q.hit]) - own;
    const float distance = own + roof(coarse, p, q, std::max(owed, 0.0f));
    owe(p.hit, distance), owe(q.hit, distance);
  });

  const std::vector<std::vector<uint32_t>> gone = kept.gone(before.indices);
  const float own = before.debt.empty() ? 0 : *std::max_element(before.debt.begin(), before.debt.end());
  for (const auto& component : gone) largest = std::max(largest, diagonal(positions, component) + 2 * own);

  // coarser to finer, where the coarser patch has a triangle that the finer one has not
  std::vector<uint32_t> around(vertices, 0);
  for (size_t i = 0; i < before.indices.size(); ++i) around[before.indices[i]] = static_cast<uint32_t>(i / 3);
  auto owed = [&](uint32_t hit, float square) {
    return debt_of(before.debt, hit) + between_samples * std::sqrt(square);
  };
  for (size_t t = 0; t < debt.size(); ++t) {
    const uint32_t* v = &after[3 * t];
    const bool bends[3] = {!edges.has(v[1], v[2]), !edges.has(v[2], v[0]), !edges.has(v[0], v[1])};
    if (!bends[0] && !bends[1] && !bends[2]) continue;
    const Vec corner[3] = {fine.vertex(v[0]), fine.vertex(v[1]), fine.vertex(v[2])};
    uint32_t near = around[v[0]];
    for (int i = 0; i < 4; ++i) {
      if (i > 0 && !bends[i - 1]) continue;
      const Vec at = samples[i][0] * corner[0] + samples[i][1] * corner[1] + samples[i][2] * corner[2];
      float square;
      near = fine.nearest(at, near, square,
                          [&](uint32_t triangle, float found) { return owed(triangle, found) <= debt[t]; });
      debt[t] = std::max(debt[t], owed(near, square));
    }
  }
  for (float owing : debt) largest = std::max(largest, owing);
  return largest + slack;
}

}  // namespace nanite_cull
