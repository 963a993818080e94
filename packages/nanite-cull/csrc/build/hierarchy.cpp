#include "build/hierarchy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "build/pool.h"
#include "core/lod.h"

namespace nanite_cull {

namespace {

// A subtree while it is built: a group, or a node that holds up to `width` of these.
struct Item {
  Sphere sphere;
  Box box;
  float max_parent_error = 0, min_own_error = 0;
  uint32_t child = none;
};

void grow(Box& box, const Box& other) {
  for (int a = 0; a < 3; ++a)
    box.lo[a] = std::min(box.lo[a], other.lo[a]), box.hi[a] = std::max(box.hi[a], other.hi[a]);
}

Item group_item(const Asset& asset, uint32_t g) {
  const Group& group = asset.groups[g];
  Item item{group.bounds.sphere, {}, group.bounds.error, infinite_error, leaf_bit | g};
  for (uint32_t c = group.cluster_begin; c < group.cluster_begin + group.cluster_count; ++c) {
    Box box;
    for (int a = 0; a < 3; ++a) box.lo[a] = asset.bounds.lo[a][c], box.hi[a] = asset.bounds.hi[a][c];
    if (c == group.cluster_begin)
      item.box = box;
    else
      grow(item.box, box);
    item.min_own_error = std::min(item.min_own_error, asset.bounds.error[c]);
  }
  return item;
}

class Builder {
 public:
  explicit Builder(Asset& asset) : asset_(asset) {}

  // Appends a node over `items` (at most `width`) and returns it as an item.
  Item node(const std::vector<Item>& items) {
    Node node{};
    for (int i = 0; i < 8; ++i) node.child[i] = none;
    std::vector<Sphere> spheres;
    Item out{{}, items[0].box, 0, infinite_error, static_cast<uint32_t>(asset_.nodes.size())};
    for (size_t i = 0; i < items.size(); ++i) {
      const Item& item = items[i];
      node.x[i] = item.sphere.x, node.y[i] = item.sphere.y, node.z[i] = item.sphere.z;
      node.r[i] = std::nextafter(item.sphere.r * (1 + 2 * lod_margin), infinite_error);
      for (int a = 0; a < 3; ++a) node.lo[a][i] = item.box.lo[a], node.hi[a][i] = item.box.hi[a];
      node.max_parent_error[i] = bfloat16_up(item.max_parent_error * (1 + 2 * lod_margin));
      node.min_own_error[i] = bfloat16_down(item.min_own_error * (1 - 2 * lod_margin));
      node.child[i] = item.child;
      spheres.push_back({node.x[i], node.y[i], node.z[i], node.r[i]});
      grow(out.box, item.box);
      out.max_parent_error = std::max(out.max_parent_error, node.max_parent_error[i]);
      out.min_own_error = std::min(out.min_own_error, node.min_own_error[i]);
    }
    out.sphere = sphere_around(spheres);
    asset_.nodes.push_back(node);
    return out;
  }

  // A balanced tree over items: split at the median of the longest axis until `width` parts are left.
  Item tree(std::vector<Item>& items, size_t first, size_t last) {
    if (last - first == 1) return items[first];
    std::vector<std::pair<size_t, size_t>> parts{{first, last}};
    const size_t width = asset_.width;
    size_t leaf = 1;  // items below a full child
    while (leaf * width < last - first) leaf *= width;
    while (parts.size() < width) {
      auto widest = std::max_element(parts.begin(), parts.end(),
                                     [](auto a, auto b) { return a.second - a.first < b.second - b.first; });
      const size_t count = widest->second - widest->first;
      if (count <= leaf) break;
      // whole children on the left, so that the nodes below are full
      const size_t middle = widest->first + std::max(leaf, (count / 2 + leaf - 1) / leaf * leaf);
      if (middle >= widest->second) break;
      split(items, widest->first, middle, widest->second);
      const size_t end = widest->second;
      widest->second = middle;
      parts.insert(widest + 1, {middle, end});
    }
    std::vector<Item> children;
    for (auto [begin, end] : parts) children.push_back(tree(items, begin, end));
    return node(children);
  }

 private:
  static void split(std::vector<Item>& items, size_t first, size_t middle, size_t last) {
    auto centre = [](const Item& item, int axis) { return item.box.lo[axis] + item.box.hi[axis]; };
    int axis = 0;
    float longest = -1;
    for (int a = 0; a < 3; ++a) {
      float lo = centre(items[first], a), hi = lo;
      for (size_t i = first; i < last; ++i)
        lo = std::min(lo, centre(items[i], a)), hi = std::max(hi, centre(items[i], a));
      if (hi - lo > longest) longest = hi - lo, axis = a;
    }
    std::nth_element(items.begin() + first, items.begin() + middle, items.begin() + last,
                     [&](const Item& a, const Item& b) {
                       const float x = centre(a, axis), y = centre(b, axis);
                       return x < y || (x == y && a.child < b.child);
                     });
  }
  Asset& asset_;
};

int depth_below(const Asset& asset, uint32_t node) {
  int depth = 1;
  for (uint32_t child : asset.nodes[node].child)
    if (child != none && !(child & leaf_bit)) depth = std::max(depth, 1 + depth_below(asset, child));
  return depth;
}

}  // namespace

float bfloat16_up(float x) {
  if (!(x < infinite_error)) return infinite_error;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (bits & 0xffff) bits = (bits & 0xffff0000u) + 0x10000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

float bfloat16_down(float x) {
  if (!(x < infinite_error)) return infinite_error;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits &= 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

void build_hierarchy(Asset& asset) {
  asset.nodes.clear();
  std::vector<std::vector<Item>> passes;
  for (uint32_t g = 0; g < asset.groups.size(); ++g) {
    const uint32_t level = asset.groups[g].level;
    if (level >= passes.size()) passes.resize(level + 1);
    passes[level].push_back(group_item(asset, g));
  }
  Builder builder(asset);
  std::vector<Item> roots;  // finest first
  for (auto& pass : passes)
    if (!pass.empty()) roots.push_back(builder.tree(pass, 0, pass.size()));
  // The finest passes sink to the bottom of the top tree: each node holds coarser passes and, last, a
  // node over all finer ones.
  while (roots.size() > 1) {
    const size_t count = std::min<size_t>(asset.width, roots.size());
    std::vector<Item> children(roots.begin(), roots.begin() + count);
    std::reverse(children.begin(), children.end());
    roots.erase(roots.begin(), roots.begin() + count);
    roots.insert(roots.begin(), builder.node(children));
  }
  if (roots[0].child & leaf_bit) roots[0] = builder.node({roots[0]});
  // The root goes first, children keep their order: a traversal starts at node 0.
  const uint32_t root = roots[0].child;
  std::swap(asset.nodes[0], asset.nodes[root]);
  for (Node& node : asset.nodes)
    for (uint32_t& child : node.child)
      if (child == 0)
        child = root;
      else if (child == root)
        child = 0;
  finish_hierarchy(asset);
}

void finish_hierarchy(Asset& asset) {
  const Node& root = asset.nodes[0];
  std::vector<Sphere> spheres;
  for (int i = 0; i < 8; ++i) {
    if (root.child[i] == none) continue;
    Box box;
    for (int a = 0; a < 3; ++a) box.lo[a] = root.lo[a][i], box.hi[a] = root.hi[a][i];
    if (spheres.empty()) asset.box = box;
    grow(asset.box, box);
    spheres.push_back({root.x[i], root.y[i], root.z[i], root.r[i]});
  }
  asset.sphere = sphere_around(spheres);
  asset.depth = depth_below(asset, 0);
}

}  // namespace nanite_cull
