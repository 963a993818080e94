// Instances of assets, kept resident and updated by slices.
#pragma once

#include <memory>

#include "build/asset.h"

namespace nanite_cull {

// What a view needs of one instance, computed when its transform is set.
struct Instance {
  float to_world[12];       // rows of a 3x4 affine map, object to world
  float inverse[9];         // of its linear part
  float largest, smallest;  // singular values of the linear part
  uint32_t asset;
};

// World spheres of instances side by side: the first test reads nothing else.
struct InstanceSpheres {
  std::vector<float> x, y, z, r;
};

// The same instances component by component, for tests of eight at a time.
struct InstanceLanes {
  std::vector<float> inverse[9], translation[3], largest, smallest;
  std::vector<uint32_t> asset;
};

// The one cluster that nothing coarser replaces; `cluster` is none where an asset has several.
struct RootCluster {
  uint32_t cluster = none;
  LodBounds own;
  Box box;
  float longest_edge = 0;
  uint32_t triangles = 0;
};

class Scene {
 public:
  // Returns the asset's number. The scene keeps it alive.
  uint32_t add_asset(std::shared_ptr<const Asset> asset);

  // Appends `count` instances; `transforms` is (count, 12), rows of 3x4. Returns the first one's number.
  // Throws native::ValueError for an unknown asset or a transform that is singular or not finite.
  uint32_t add(uint32_t asset, const float* transforms, int64_t count, int threads);

  // Replaces the transforms of instances [first, first + count).
  void update(int64_t first, const float* transforms, int64_t count, int threads);

  int64_t size() const { return static_cast<int64_t>(instances.size()); }

  std::vector<std::shared_ptr<const Asset>> assets;
  std::vector<RootCluster> roots;  // of the assets
  std::vector<Instance> instances;
  InstanceSpheres spheres;
  InstanceLanes lanes;

 private:
  void resize(int64_t count);
  void set(int64_t index, const float* transform);
};

}  // namespace nanite_cull
