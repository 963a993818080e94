#include "build/triangle_grid.h"

namespace nanite_cull {

namespace {

constexpr float cells_per_triangle = 2;

}  // namespace

float distance_squared(Vec p, Vec a, Vec b, Vec c) {
  const Vec ab = b - a, ac = c - a, ap = p - a;
  const float d1 = dot(ab, ap), d2 = dot(ac, ap);
  auto to = [&](Vec q) {
    const Vec d = p - q;
    return dot(d, d);
  };
  if (d1 <= 0 && d2 <= 0) return to(a);
  const Vec bp = p - b;
  const float d3 = dot(ab, bp), d4 = dot(ac, bp);
  if (d3 >= 0 && d4 <= d3) return to(b);
  const float vc = d1 * d4 - d3 * d2;
  if (vc <= 0 && d1 >= 0 && d3 <= 0 && d1 > d3) return to(a + (d1 / (d1 - d3)) * ab);
  const Vec cp = p - c;
  const float d5 = dot(ab, cp), d6 = dot(ac, cp);
  if (d6 >= 0 && d5 <= d6) return to(c);
  const float vb = d5 * d2 - d1 * d6;
  if (vb <= 0 && d2 >= 0 && d6 <= 0 && d2 > d6) return to(a + (d2 / (d2 - d6)) * ac);
  const float va = d3 * d6 - d5 * d4;
  if (va <= 0 && d4 - d3 >= 0 && d5 - d6 >= 0 && (d4 - d3) + (d5 - d6) > 0)
    return to(b + ((d4 - d3) / ((d4 - d3) + (d5 - d6))) * (c - b));
  const float sum = va + vb + vc;
  if (!(sum > 0)) return std::min({to(a), to(b), to(c)});  // no area in float: the corners bound it
  return to(a + (vb / sum) * ab + (vc / sum) * ac);
}

TriangleGrid::TriangleGrid(const std::vector<float>& positions, const std::vector<uint32_t>& indices)
    : p_(positions), indices_(indices) {
  float hi[3];
  for (int a = 0; a < 3; ++a) lo_[a] = hi[a] = p_[3 * size_t(indices_[0]) + a];
  for (uint32_t v : indices_)
    for (int a = 0; a < 3; ++a) {
      lo_[a] = std::min(lo_[a], p_[3 * size_t(v) + a]), hi[a] = std::max(hi[a], p_[3 * size_t(v) + a]);
    }
  const float extent[3] = {hi[0] - lo_[0], hi[1] - lo_[1], hi[2] - lo_[2]};
  const float longest = std::max({extent[0], extent[1], extent[2], 1e-30f});
  const float budget = cells_per_triangle * float(triangle_count()) + 8;
  // the largest grid within the budget: thin patches get few cells across
  int across = 1;
  auto cells = [&](int n) {
    float total = 1;
    for (float e : extent) total *= std::floor(e / longest * float(n)) + 1;
    return total;
  };
  while (across < 512 && cells(across + (across >> 2) + 1) <= budget) across += (across >> 2) + 1;
  size_ = longest / float(across), inverse_ = float(across) / longest;
  for (int a = 0; a < 3; ++a) n_[a] = static_cast<int>(extent[a] * inverse_) + 1;
  begin_.assign(size_t(n_[0]) * n_[1] * n_[2] + 1, 0);
  auto each_cell = [&](uint32_t t, auto&& body) {
    int from[3], to[3];
    for (int a = 0; a < 3; ++a) {
      const float x[3] = {p_[3 * size_t(indices_[3 * t]) + a], p_[3 * size_t(indices_[3 * t + 1]) + a],
                          p_[3 * size_t(indices_[3 * t + 2]) + a]};
      from[a] = cell(std::min({x[0], x[1], x[2]}), a), to[a] = cell(std::max({x[0], x[1], x[2]}), a);
    }
    for (int z = from[2]; z <= to[2]; ++z)
      for (int y = from[1]; y <= to[1]; ++y)
        for (int x = from[0]; x <= to[0]; ++x) body((size_t(z) * n_[1] + y) * n_[0] + x);
  };
  const uint32_t triangles = static_cast<uint32_t>(triangle_count());
  for (uint32_t t = 0; t < triangles; ++t) each_cell(t, [&](size_t c) { ++begin_[c + 1]; });
  for (size_t c = 1; c < begin_.size(); ++c) begin_[c] += begin_[c - 1];
  members_.resize(begin_.back());
  std::vector<uint32_t> next(begin_.begin(), begin_.end() - 1);
  for (uint32_t t = 0; t < triangles; ++t) each_cell(t, [&](size_t c) { members_[next[c]++] = t; });
}

uint32_t TriangleGrid::nearest(Vec p, uint32_t hint, float& square) const {
  uint32_t best = hint;
  square = to_triangle(p, hint);
  auto look = [&](int x, int y, int z) {
    const size_t c = (size_t(z) * n_[1] + y) * n_[0] + x;
    for (uint32_t m = begin_[c]; m < begin_[c + 1]; ++m) {
      const float d = to_triangle(p, members_[m]);
      if (d < square) square = d, best = members_[m];
    }
  };
  const int at[3] = {cell(p.x, 0), cell(p.y, 1), cell(p.z, 2)};
  look(at[0], at[1], at[2]);
  if (square == 0) return best;
  // then every cell that the sphere of what was found reaches, a little more for the rounding of cell()
  const float reach = std::sqrt(square) + 1e-3f * size_, x[3] = {p.x, p.y, p.z};
  int from[3], to[3];
  for (int a = 0; a < 3; ++a) from[a] = cell(x[a] - reach, a), to[a] = cell(x[a] + reach, a);
  for (int cz = from[2]; cz <= to[2]; ++cz)
    for (int cy = from[1]; cy <= to[1]; ++cy)
      for (int cx = from[0]; cx <= to[0]; ++cx)
        if (cx != at[0] || cy != at[1] || cz != at[2]) look(cx, cy, cz);
  return best;
}

}  // namespace nanite_cull
