#include "build/certify.h"

#include <algorithm>
#include <cmath>

#include "build/triangle_grid.h"
#include "core/records.h"

namespace nanite_cull {

namespace {

constexpr float rounding = 2e-6f;        // of a distance inside a patch, in relation to its diagonal
constexpr float between_samples = 1.5f;  // the peak of a roof over an edge, by what its middle says at least

// One corner of a finer triangle: where it is, the coarser triangle nearest to it, and how near.
struct Point {
  Vec at;
  uint32_t hit;
  float square;
};

Vec unit_normal(const TriangleGrid& grid, uint32_t t) {
  const Vec n = cross(grid.corner(t, 1) - grid.corner(t, 0), grid.corner(t, 2) - grid.corner(t, 0));
  const float length = std::sqrt(dot(n, n));
  return length > 0 ? (1 / length) * n : Vec{0, 0, 0};
}

// How far the edge from u to v, whose ends are nearest to different triangles, lies from the coarser patch
// between them. Where the two share an edge the distance peaks as the edge crosses the plane that halves
// their angle; elsewhere its middle is measured.
float roof(const TriangleGrid& coarse, const Point& u, const Point& v) {
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
  float square;
  coarse.nearest(0.5f * (u.at + v.at), u.hit, square);
  return between_samples * std::sqrt(square);
}

// Connected parts of a patch.
class Components {
 public:
  Components(const std::vector<uint32_t>& indices, size_t vertices) : parent_(vertices) {
    for (uint32_t v = 0; v < vertices; ++v) parent_[v] = v;
    for (size_t i = 0; i < indices.size(); i += 3)
      join(indices[i], indices[i + 1]), join(indices[i], indices[i + 2]);
  }
  uint32_t root(uint32_t v) {
    while (parent_[v] != v) v = parent_[v] = parent_[parent_[v]];
    return v;
  }

 private:
  void join(uint32_t a, uint32_t b) { parent_[root(a)] = root(b); }
  std::vector<uint32_t> parent_;
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

struct Edge {
  uint64_t ends;  // smaller vertex << 32 | larger
  float own;      // the largest debt of the triangles on it
};

// The edges of a patch, each once, sorted by their ends.
std::vector<Edge> edges_of(const PatchSurface& patch) {
  std::vector<Edge> edges;
  edges.reserve(patch.indices.size());
  for (size_t i = 0; i < patch.indices.size(); ++i) {
    const uint64_t a = patch.indices[i], b = patch.indices[i % 3 == 2 ? i - 2 : i + 1];
    edges.push_back({a < b ? a << 32 | b : b << 32 | a, debt_of(patch.debt, i / 3)});
  }
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.ends < b.ends; });
  size_t kept = 0;
  for (const Edge& edge : edges)
    if (kept > 0 && edges[kept - 1].ends == edge.ends)
      edges[kept - 1].own = std::max(edges[kept - 1].own, edge.own);
    else
      edges[kept++] = edge;
  edges.resize(kept);
  return edges;
}

bool has_edge(const std::vector<Edge>& edges, uint64_t a, uint64_t b) {
  const uint64_t ends = a < b ? a << 32 | b : b << 32 | a;
  const auto found = std::lower_bound(edges.begin(), edges.end(), ends,
                                      [](const Edge& edge, uint64_t key) { return edge.ends < key; });
  return found != edges.end() && found->ends == ends;
}

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
  const TriangleGrid coarse(positions, after), fine(positions, before.indices);
  debt.assign(after.size() / 3, 0);

  // Corners that stay touch the coarser patch; the others look for their nearest triangle, starting from
  // where a neighbour found its own.
  std::vector<Point> points(vertices);
  std::vector<uint8_t> known(vertices, 0), stays(vertices, 0);
  for (size_t i = 0; i < after.size(); ++i) {
    points[after[i]] = {coarse.vertex(after[i]), static_cast<uint32_t>(i / 3), 0};
    known[after[i]] = stays[after[i]] = 1;
  }
  Components components(before.indices, vertices);
  std::vector<uint8_t> kept(vertices, 0);
  for (uint32_t v : after) kept[components.root(v)] = 1;

  float largest = 0;
  uint32_t hint = 0;
  for (size_t i = 0; i < before.indices.size(); i += 3) {
    const uint32_t* v = &before.indices[i];
    if (!kept[components.root(v[0])]) continue;
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
  static const std::vector<float> no_debt;
  const std::vector<Edge> edges = edges_of(before), coarse_edges = edges_of({after, no_debt});
  auto has_corner = [&](uint32_t triangle, uint32_t vertex) {
    return coarse.index(triangle, 0) == vertex || coarse.index(triangle, 1) == vertex ||
           coarse.index(triangle, 2) == vertex;
  };
  for (const Edge& edge : edges) {
    const uint32_t a = static_cast<uint32_t>(edge.ends >> 32), b = static_cast<uint32_t>(edge.ends);
    if (!kept[components.root(a)]) continue;
    const Point &p = points[a], &q = points[b];
    auto owe = [&](uint32_t hit, float distance) { debt[hit] = std::max(debt[hit], edge.own + distance); };
    owe(p.hit, std::sqrt(p.square)), owe(q.hit, std::sqrt(q.square));
    // an edge of which one triangle holds both ends bends nowhere
    if (p.hit == q.hit || (stays[a] && has_corner(q.hit, a)) || (stays[b] && has_corner(p.hit, b))) continue;
    if (stays[a] && stays[b] && has_edge(coarse_edges, a, b)) continue;
    const float distance = roof(coarse, p, q);
    owe(p.hit, distance), owe(q.hit, distance);
  }

  // components that are gone
  std::vector<std::vector<uint32_t>> gone;
  {
    std::vector<uint32_t> number(vertices, none);
    std::vector<uint8_t> listed(vertices, 0);
    for (size_t i = 0; i < before.indices.size(); ++i) {
      const uint32_t v = before.indices[i], root = components.root(v);
      if (kept[root] || listed[v]) continue;
      if (number[root] == none) number[root] = static_cast<uint32_t>(gone.size()), gone.emplace_back();
      gone[number[root]].push_back(v), listed[v] = 1;
    }
  }
  const float own = before.debt.empty() ? 0 : *std::max_element(before.debt.begin(), before.debt.end());
  for (const auto& component : gone) largest = std::max(largest, diagonal(positions, component) + 2 * own);

  // coarser to finer, where the coarser patch has a triangle that the finer one has not
  std::vector<uint32_t> around(vertices, 0);
  for (size_t i = 0; i < before.indices.size(); ++i) around[before.indices[i]] = static_cast<uint32_t>(i / 3);
  for (size_t t = 0; t < debt.size(); ++t) {
    const uint32_t* v = &after[3 * t];
    if (!has_edge(edges, v[0], v[1]) || !has_edge(edges, v[1], v[2]) || !has_edge(edges, v[2], v[0])) {
      const Vec middle = (1.0f / 3) * (fine.vertex(v[0]) + fine.vertex(v[1]) + fine.vertex(v[2]));
      float square;
      const uint32_t hit = fine.nearest(middle, around[v[0]], square);
      debt[t] = std::max(debt[t], debt_of(before.debt, hit) + std::sqrt(square));
    }
    largest = std::max(largest, debt[t]);
  }
  return largest + slack;
}

}  // namespace nanite_cull
