#include "scene/instance_tree.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/frustum.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr int64_t leaf_instances = 32, width = 8;
constexpr int64_t stray_share = 16;  // one in so many may be a stray, or behind the tree

// 10 bits apart by two.
uint32_t spread(uint32_t x) {
  x = (x | x << 16) & 0x030000ffu;
  x = (x | x << 8) & 0x0300f00fu;
  x = (x | x << 4) & 0x030c30c3u;
  return (x | x << 2) & 0x09249249u;
}

void mark(std::vector<uint64_t>& blocks, uint32_t instance) {
  blocks[instance / 512] |= uint64_t(1) << (instance / 8 % 64);
}

// Sorts numbers by 30-bit keys: three passes of counting, each in parallel over stretches.
void sort_by_key(std::vector<uint64_t>& items, int threads) {
  constexpr int bits = 10, buckets = 1 << bits;
  constexpr int64_t stretch = 65536;
  const int64_t count = static_cast<int64_t>(items.size()), stretches = (count + stretch - 1) / stretch;
  std::vector<uint64_t> other(count);
  std::vector<uint32_t> at(stretches * buckets);
  for (int pass = 0; pass < 3; ++pass) {
    const int shift = 32 + bits * pass;
    std::fill(at.begin(), at.end(), 0);
    native::parallel_for(count, stretch, threads, [&](int64_t first, int64_t last) {
      uint32_t* mine = &at[first / stretch * buckets];
      for (int64_t i = first; i < last; ++i) ++mine[items[i] >> shift & (buckets - 1)];
    });
    uint32_t sum = 0;
    for (int b = 0; b < buckets; ++b)
      for (int64_t s = 0; s < stretches; ++s) {
        const uint32_t n = at[s * buckets + b];
        at[s * buckets + b] = sum, sum += n;
      }
    native::parallel_for(count, stretch, threads, [&](int64_t first, int64_t last) {
      uint32_t* mine = &at[first / stretch * buckets];
      for (int64_t i = first; i < last; ++i) other[mine[items[i] >> shift & (buckets - 1)]++] = items[i];
    });
    items.swap(other);
  }
}

}  // namespace

bool InstanceTree::current(int64_t count) const {
  return built_ > 0 && drift_ <= reach_ && count >= built_ &&
         static_cast<int64_t>(strays_.size()) + (count - built_) <= count / stray_share;
}

void InstanceTree::moved(const Moves& moves) {
  drift_ += moves.drift;
  if (static_cast<int64_t>(strays_.size()) <= built_ / stray_share)
    strays_.insert(strays_.end(), moves.strays.begin(), moves.strays.end());
}

void InstanceTree::build(const InstanceSpheres& s, int threads) {
  const int64_t count = static_cast<int64_t>(s.x.size());
  float lo[3] = {FLT_MAX, FLT_MAX, FLT_MAX}, hi[3] = {-FLT_MAX, -FLT_MAX, -FLT_MAX};
  const std::vector<float>* centre[3] = {&s.x, &s.y, &s.z};
  for (int a = 0; a < 3; ++a)
    for (const float value : *centre[a]) lo[a] = least(lo[a], value), hi[a] = most(hi[a], value);

  std::vector<uint64_t> keyed(count);
  native::parallel_for(count, 16384, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      uint32_t key = 0;
      for (int a = 0; a < 3; ++a) {
        const float place = ((*centre[a])[i] - lo[a]) / (hi[a] - lo[a]);
        key |= spread(place > 0 ? static_cast<uint32_t>(least(place, 1.0f) * 1023) : 0) << a;
      }
      keyed[i] = uint64_t(key) << 32 | static_cast<uint32_t>(i);
    }
  });
  sort_by_key(keyed, threads);

  order_.resize(count);
  levels_.assign(1, std::vector<Box>((count + leaf_instances - 1) / leaf_instances));
  std::vector<Box>& leaves = levels_[0];
  native::parallel_for(count, 64 * leaf_instances, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const uint32_t instance = order_[i] = static_cast<uint32_t>(keyed[i]);
      Box& box = leaves[i / leaf_instances];
      if (i % leaf_instances == 0) box = {{FLT_MAX, FLT_MAX, FLT_MAX}, {-FLT_MAX, -FLT_MAX, -FLT_MAX}};
      const float r = s.r[instance];
      if (r < 0) continue;  // hidden; it is a stray when it shows again
      for (int a = 0; a < 3; ++a) {
        const float c = (*centre[a])[instance];
        box.lo[a] = least(box.lo[a], c - r), box.hi[a] = most(box.hi[a], c + r);
      }
    }
  });
  double extent = 0;
  for (const Box& box : leaves)
    if (box.lo[0] <= box.hi[0])
      extent += most(most(box.hi[0] - box.lo[0], box.hi[1] - box.lo[1]), box.hi[2] - box.lo[2]);
  reach_ = static_cast<float>(extent / double(leaves.size()) / 4);
  while (levels_.back().size() > 1) {
    const std::vector<Box>& below = levels_.back();
    std::vector<Box> above((below.size() + width - 1) / width);
    for (size_t i = 0; i < below.size(); ++i) {
      Box& box = above[i / width];
      if (i % width == 0) box = below[i];
      for (int a = 0; a < 3; ++a)
        box.lo[a] = least(box.lo[a], below[i].lo[a]), box.hi[a] = most(box.hi[a], below[i].hi[a]);
    }
    levels_.push_back(std::move(above));
  }
  strays_.clear(), drift_ = 0, built_ = count;
}

// True only where every sphere in the box, grown by the drift, misses a plane in float arithmetic
// (sphere_misses).
bool InstanceTree::outside(const Box& box, const float (*planes)[4]) const {
  if (box.lo[0] > box.hi[0]) return true;  // all hidden
  for (int p = 0; p < 6; ++p) {
    const float* n = planes[p];
    float furthest = n[3], size = magnitude(n[3]);
    for (int a = 0; a < 3; ++a) {
      const float lo = box.lo[a] - drift_, hi = box.hi[a] + drift_;
      furthest += n[a] > 0 ? n[a] * hi : n[a] * lo;
      size += magnitude(n[a]) * most(magnitude(lo), magnitude(hi));
    }
    if (furthest < -4 * sphere_slack * size) return true;
  }
  return false;
}

void InstanceTree::visit(std::size_t level, std::size_t node, const float (*planes)[4],
                         std::vector<uint64_t>& blocks) const {
  if (outside(levels_[level][node], planes)) return;
  if (level > 0) {
    const size_t last = std::min(levels_[level - 1].size(), (node + 1) * width);
    for (size_t child = node * width; child < last; ++child) visit(level - 1, child, planes, blocks);
    return;
  }
  const size_t last = std::min(order_.size(), (node + 1) * leaf_instances);
  for (size_t i = node * leaf_instances; i < last; ++i) mark(blocks, order_[i]);
}

void InstanceTree::find(const float (*planes)[4], int64_t count, std::vector<uint64_t>& blocks) const {
  blocks.assign((count + 511) / 512, 0);
  visit(levels_.size() - 1, 0, planes, blocks);
  for (const uint32_t instance : strays_) mark(blocks, instance);
  for (int64_t i = built_; i < count; ++i) mark(blocks, static_cast<uint32_t>(i));
}

}  // namespace nanite_cull
