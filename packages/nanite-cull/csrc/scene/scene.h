// Instances of assets, kept resident and updated by slices. Many threads may read a scene, one may change it:
// readers hold `lock` shared, every change holds it alone.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>

#include "build/asset.h"
#include "core/instance_view.h"
#include "scene/derive.h"
#include "scene/instance_tree.h"
#include "scene/track.h"

namespace nanite_cull {

// What a view needs of the instances, component by component, for tests of eight at a time.
struct InstanceLanes {
  std::vector<float> inverse[9];         // of the linear part
  std::vector<double> translation[3];    // of the asset's grid origin, world
  std::vector<float> largest, smallest;  // singular values of the linear part
  std::vector<uint32_t> asset;
};

RootCluster root_of(const Asset& asset);

class Scene {
 public:
  // Returns the asset's number. The scene keeps it alive.
  uint32_t add_asset(std::shared_ptr<const Asset> asset);

  // Appends `count` instances; `transforms` is (count, 12), rows of 3x4. Returns the first one's number.
  // Throws native::ValueError for an unknown asset or a transform that is singular, not finite or out of
  // range; the scene is then as it was.
  uint32_t add(uint32_t asset, const double* transforms, int64_t count, int threads);

  // The same for an asset that the scene may not have yet: its number and the first instance's.
  std::pair<uint32_t, uint32_t> add_with_asset(std::shared_ptr<const Asset> asset, const double* transforms,
                                               int64_t count, int threads);

  // Replaces the transforms of instances [first, first + count).
  void update(int64_t first, const double* transforms, int64_t count, int threads);

  // Leaves instances [first, first + count) out of every view, or shows them again.
  void hide(int64_t first, int64_t count, bool hidden);

  // Takes instances [first, first + count) out; those after them move down.
  void remove(int64_t first, int64_t count);

  int64_t size() const { return static_cast<int64_t>(linear_.size() / 9); }

  // The world transform of an instance, rows of 3x4, as it was given.
  void transform(int64_t index, double* out) const;
  bool hidden(int64_t index) const { return hidden_[index] != 0; }
  const double* linear(int64_t index) const { return &linear_[9 * index]; }
  Placement placement(int64_t index) const {
    return {linear(index),
            {lanes.translation[0][index], lanes.translation[1][index], lanes.translation[2][index]}};
  }

  // A box around the spheres of what is not hidden; lo above hi where there is nothing.
  Box box() const;

  // A track that begins now: what moves afterwards is written into it as long as somebody holds it. Readers
  // may ask for one.
  std::shared_ptr<Track> track() const;
  bool keeps(const Track& track) const;

  // Changes are numbered, over all scenes: what a copy of the scene has not seen yet is in the stretches of
  // `stretch` instances whose last change is later than the copy.
  static constexpr int64_t stretch = 4096;
  uint64_t revision() const { return revision_; }
  bool changed_since(uint64_t revision, int64_t number) const { return changes_[number] > revision; }

  // Where instances in view may be: see InstanceTree::find(). False where there are too few for a tree.
  bool find_blocks(const float (*planes)[4], int threads, std::vector<uint64_t>& blocks) const;

  bool mirrored(int64_t index) const;

  std::vector<std::shared_ptr<const Asset>> assets;
  std::vector<RootCluster> roots;  // of the assets
  InstanceSpheres spheres;
  InstanceLanes lanes;
  mutable std::shared_mutex lock;

 private:
  void check_slice(const char* function, int64_t first, int64_t count) const;
  void resize(int64_t count);
  void note_change(int64_t first, int64_t last);
  void set(int64_t first, const double* transforms, int64_t count, InstanceTree::Moves& moves);
  std::vector<std::shared_ptr<Track>> live_tracks() const;
  void store(int64_t to, const Derived& from, int count, InstanceTree::Moves& moves);
  void place(int64_t to, const Derived& from, int count, InstanceTree::Moves& moves);

  // Of the three ways above; the lock is held.
  uint32_t enter(std::shared_ptr<const Asset> asset);
  void check_new(const Asset& asset, const double* transforms, int64_t count, int threads) const;
  uint32_t append(uint32_t asset, const double* transforms, int64_t count, int threads);

  double farthest_reach_ = 0;   // of an asset from its own origin
  std::vector<double> linear_;  // (n, 9)
  std::vector<uint8_t> hidden_;

  uint64_t revision_ = 0;
  std::vector<uint64_t> changes_;  // the last of each stretch

  mutable std::mutex tree_lock_;  // of making it: readers do, when they first need it
  mutable InstanceTree tree_;

  mutable std::mutex tracks_lock_;
  mutable std::vector<std::weak_ptr<Track>> tracks_;
};

}  // namespace nanite_cull
