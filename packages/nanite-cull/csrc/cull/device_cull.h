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

class Culler {
 public:
  // Queues a pass over the scene in one view, level by level or persistent. Throws native::ValueError for
  // capacities or a scene that candidates have no room for, std::runtime_error for what CUDA refuses.
  void cull(const DeviceScene& scene, const View& view, const CullOptions& options, dev::Stream stream);

  // What the pass found, in device memory: counts, slots from both ends, matrices of the instances.
  const CullCounts* counts() const { return counts_.data(); }
  const DeviceArray<Visible>& visible() const { return visible_; }
  const float* to_clip() const { return to_clip_.data(); }

  // Copies counts and clusters to the host. Waits for the stream.
  void read_back(VisibleClusters& out, CullStats& stats, dev::Stream stream) const;

 private:
  CullPass prepare(const DeviceScene& scene, const View& view, const CullOptions& options,
                   dev::Stream stream);

  void traverse_levels(CullPass& pass, int depth, dev::Stream stream) const;
  void traverse_persistent(const CullPass& pass, dev::Stream stream);

  CullCapacities capacity_ = {};
  bool persistent_ = false;
  uint32_t instances_ = 0;
  DeviceArray<CullView> view_;
  DeviceArray<InstanceView> views_;
  DeviceArray<float> to_clip_;
  DeviceArray<uint32_t> entered_;
  DeviceArray<uint64_t> nodes_[2], groups_, keys_, other_keys_;
  DeviceArray<QueueState> queue_;  // of a persistent traversal
  DeviceArray<uint32_t> commits_;
  DeviceArray<uint8_t> sort_scratch_;
  DeviceArray<Visible> visible_;
  DeviceArray<CullCounts> counts_;
};

}  // namespace nanite_cull::cuda
