// A hierarchy over the instances of a scene, so that a view costs what it sees and not what exists.
//
// Instances in the order of a Morton curve (Morton 1966; as in Lauterbach et al., "Fast BVH Construction on
// GPUs", 2009), 32 to a leaf, eight nodes to a node above. Its answer is where to look: blocks of eight
// neighbouring instances, of which a sphere may meet the frustum. Those are then tested one by one as without
// it, so what is found does not depend on it.
//
// Moving costs nothing here as long as it is little: all boxes count as grown by the furthest drift since
// they were made, and what jumps further than that pays is listed and always looked at. When the drift is as
// large as a leaf, or the list long, the tree is made anew.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanite_cull {

// World spheres of instances side by side: the first test reads nothing else. A hidden one has a radius of
// minus infinity.
struct InstanceSpheres {
  std::vector<float> x, y, z, r;
};

class InstanceTree {
 public:
  static constexpr int64_t fewest = 4096;  // below that all are tested

  // What a part of an update did to spheres.
  struct Moves {
    float drift = 0;  // at most so far, all but the strays
    std::vector<uint32_t> strays;
  };
  // The furthest that a sphere may drift without being a stray.
  float reach() const { return reach_; }
  void moved(const Moves& moves);
  // Instances were taken out, so numbers changed.
  void forget() { built_ = 0; }

  bool current(int64_t count) const;
  void build(const InstanceSpheres& spheres, int threads);

  // Sets the bits of the blocks [8i, 8i + 8) of `count` instances to look at. `planes`: six, of unit normals.
  void find(const float (*planes)[4], int64_t count, std::vector<uint64_t>& blocks) const;

 private:
  struct Box {
    float lo[3], hi[3];
  };
  bool outside(const Box& box, const float (*planes)[4]) const;
  void visit(std::size_t level, std::size_t node, const float (*planes)[4],
             std::vector<uint64_t>& blocks) const;

  std::vector<uint32_t> order_;           // instances along the curve
  std::vector<std::vector<Box>> levels_;  // leaves first
  std::vector<uint32_t> strays_;
  float reach_ = 0, drift_ = 0;
  int64_t built_ = 0;  // instances it was made of; those behind are always looked at
};

}  // namespace nanite_cull
