// Culling on a device: what it needs of memory, and its launches. Compiled and simulated, never run.
#pragma once

#include "core/queue_layout.h"
#include "cull/cull.h"
#include "cull/cull_pass.h"

namespace nanite_cull::cuda {

// Sorts words by their low `bits` bits into `keys`; `other` is as large, `scratch` whatever it is. Queued on
// the stream.
void sort_keys(DeviceArray<uint64_t>& keys, DeviceArray<uint64_t>& other, DeviceArray<uint8_t>& scratch,
               int bits, dev::Stream stream);

// A view's frame before, in device memory.
struct LastFrame {
  Hzb pyramid;  // no levels: there was none
  View view;
  const InstanceRecord* places;  // where instances were
  uint32_t count;
};

class Culler {
 public:
  // Queues a pass over the scene in all views, level by level or persistent; with `last`, a frame for each
  // view, the main pass of two: it leaves out what lay behind that frame's depth. Capacities hold for all
  // views together. Throws native::ValueError for capacities or a scene that candidates have no room for,
  // std::runtime_error for what CUDA refuses.
  void cull(const DeviceScene& scene, const std::vector<View>& views, const CullOptions& options,
            dev::Stream stream, const std::vector<LastFrame>& last = {});
  void cull(const DeviceScene& scene, const View& view, const CullOptions& options, dev::Stream stream) {
    cull(scene, std::vector<View>{view}, options, stream);
  }

  // Queues the post pass: adds what the main pass should not have left out and `now`, of each view the
  // pyramid of what it drew, does not hide. The stream has been waited for since cull(). Slots change; see
  // rename_pixels() in raster/raster.cuh.
  void post_pass(const std::vector<Hzb>& now, dev::Stream stream);

  // What was found, in device memory: counts, slots from both ends, matrices of the instances.
  const CullCounts* counts() const { return counts_.data() + (passes_ - 1); }
  const DeviceArray<Visible>& visible() const { return visible_; }
  const float* to_clip() const { return to_clip_.data(); }
  float* to_clip() { return to_clip_.data(); }
  const uint32_t* entered() const {
    return entered_.data();
  }  // instances in the frustum, numbered view by view; how many, counts() says

  // After a post pass: the sorted list of the main pass, its counts, and that of both.
  const uint64_t* main_keys() const { return main_keys_.data(); }
  const CullCounts* main_counts() const { return counts_.data(); }
  const uint64_t* keys() const { return keys_.data(); }
  // The slots that it brought, small ones and large ones, and how many.
  const uint32_t* added(int large) const { return added_[large].data(); }
  const Count* added_count(int large) const { return listed_.data() + large; }

  // Adds what was found to `stats`; returns the counts behind it. Waits for the stream.
  CullCounts add_stats(CullStats& stats, dev::Stream stream) const;

  // Copies counts and clusters to the host. Waits for the stream.
  void read_back(VisibleClusters& out, CullStats& stats, dev::Stream stream) const;

 private:
  CullPass prepare(const DeviceScene& scene, const std::vector<View>& views, const CullOptions& options,
                   const std::vector<LastFrame>& last);
  void run(dev::Stream stream);
  void traverse_levels(dev::Stream stream);
  void traverse_persistent(dev::Stream stream);
  void add_work(const CullCounts& counts, CullStats& stats) const;

  CullPass pass_ = {};
  std::vector<CullView> cameras_;  // uploaded from here: changes only where the stream has been waited for
  CullCapacities capacity_ = {};
  bool persistent_ = false;
  int passes_ = 1, depth_ = 0;
  DeviceArray<CullView> device_cameras_;
  DeviceArray<InstanceView> views_;
  DeviceArray<InstanceSight> sights_;
  DeviceArray<float> to_clip_;
  DeviceArray<uint32_t> entered_;
  DeviceArray<uint64_t> nodes_[2], groups_, keys_, other_keys_, main_keys_;
  DeviceArray<QueueState> queue_;  // of a persistent traversal
  DeviceArray<uint32_t> commits_, added_[2];
  DeviceArray<uint8_t> sort_scratch_;
  DeviceArray<Visible> visible_;
  DeviceArray<CullCounts> counts_;  // of the main pass and of the post pass
  DeviceArray<Count> listed_;
};

}  // namespace nanite_cull::cuda
