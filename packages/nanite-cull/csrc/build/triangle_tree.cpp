#include "build/triangle_tree.h"

namespace nanite_cull {

namespace {

template <class V>
V inverse(V x) {
  const V zero = {0, 0, 0, 0}, one = {1, 1, 1, 1};
  return x > zero ? one / (x > zero ? x : one) : zero;
}

}  // namespace

TriangleTree::TriangleTree(const std::vector<float>& positions, const std::vector<uint32_t>& indices)
    : p_(positions), indices_(indices), leaves_((indices.size() / 3 + 3) / 4) {
  nodes_.reserve(leaves_.size() / (width - 1) + 8);
  for (uint32_t leaf = 0; leaf < leaves_.size(); ++leaf) set_leaf(leaf);
  size_t children = leaves_.size();
  do {
    add_level(children);
    children = nodes_.size() - level_of_.back();
  } while (children > 1);
}

void TriangleTree::set_leaf(uint32_t index) {
  Leaf& leaf = leaves_[index];
  const uint32_t last = static_cast<uint32_t>(indices_.size() / 3 - 1);
  for (uint32_t lane = 0; lane < 4; ++lane) {  // the last one fills what is left of the last four
    const uint32_t t = std::min(4 * index + lane, last);
    for (int a = 0; a < 3; ++a) {
      const float from = p_[3 * size_t(indices_[3 * size_t(t)]) + a];
      leaf.a[a][lane] = from;
      leaf.ab[a][lane] = p_[3 * size_t(indices_[3 * size_t(t) + 1]) + a] - from;
      leaf.ac[a][lane] = p_[3 * size_t(indices_[3 * size_t(t) + 2]) + a] - from;
    }
  }
  auto dot = [](const Lanes* a, const Lanes* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; };
  const Lanes bc[3] = {leaf.ac[0] - leaf.ab[0], leaf.ac[1] - leaf.ab[1], leaf.ac[2] - leaf.ab[2]};
  leaf.ab_ab = dot(leaf.ab, leaf.ab), leaf.ab_ac = dot(leaf.ab, leaf.ac), leaf.ac_ac = dot(leaf.ac, leaf.ac);
  leaf.per_ab = inverse(leaf.ab_ab), leaf.per_ac = inverse(leaf.ac_ac), leaf.per_bc = inverse(dot(bc, bc));
  leaf.per_area = inverse(leaf.ab_ab * leaf.ac_ac - leaf.ab_ac * leaf.ab_ac);
}

// The nodes over `children` nodes of the level before, or over the leaves.
void TriangleTree::add_level(size_t children) {
  const size_t below = level_of_.empty() ? 0 : level_of_.back(), begin = nodes_.size();
  const bool over_leaves = level_of_.empty();
  level_of_.push_back(static_cast<uint32_t>(begin));
  for (size_t child = 0; child < children; ++child) {
    const size_t four = child % width / 4, lane = child % 4;
    if (child % width == 0) {
      nodes_.emplace_back();
      const Lanes far = {INFINITY, INFINITY, INFINITY, INFINITY};  // boxes that no point is near to
      for (auto& lo : nodes_.back().lo) std::fill(lo, lo + 3, far);
      for (auto& hi : nodes_.back().hi) std::fill(hi, hi + 3, -far);
    }
    for (int a = 0; a < 3; ++a) {
      float lo = INFINITY, hi = -INFINITY;
      auto grow = [&](Lanes least, Lanes most) {
        for (int i = 0; i < 4; ++i) lo = std::min(lo, least[i]), hi = std::max(hi, most[i]);
      };
      if (over_leaves) {
        const Leaf& leaf = leaves_[child];
        const Lanes b = leaf.a[a] + leaf.ab[a], c = leaf.a[a] + leaf.ac[a];
        grow(lanewise_least(lanewise_least(leaf.a[a], b), c), lanewise_most(lanewise_most(leaf.a[a], b), c));
      } else {
        for (size_t i = 0; i < width / 4; ++i)
          grow(nodes_[below + child].lo[i][a], nodes_[below + child].hi[i][a]);
      }
      nodes_.back().lo[four][a][lane] = lo, nodes_.back().hi[four][a][lane] = hi;
    }
  }
}

}  // namespace nanite_cull
