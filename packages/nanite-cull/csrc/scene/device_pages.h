// The pages of a streamed asset in the memory of a device: what the host's streamer decoded is copied as it
// comes and goes, and culling reads the errors that say what is there (store/residency.h). Compiled and
// simulated, never run.
//
// A pool of slots, each with room for the largest page of the file. A page is put in by writing where its
// clusters' vertices and triangles lie into their records, so kernels know no pages. What culling reads is
// copied first; the pages themselves, by a stream of their own, while the device culls.
#pragma once

#include "scene/asset_arrays.h"
#include "scene/device_array.h"
#include "scene/upload_stream.h"
#include "store/residency.h"

namespace nanite_cull::cuda {

// Bounds as AssetArrays has them. Queued on the stream.
void upload_bounds(const ClusterBounds& bounds, DeviceArray<float>& out, dev::Stream stream);

class DevicePages {
 public:
  // `asset` has a file.
  explicit DevicePages(std::shared_ptr<const Asset> asset);

  // Tells of what came and went since the last call; false where nothing did. `copies` has begun, and brings
  // what culling reads. Throws native::ValueError for pages that 32-bit numbers of vertices do not reach,
  // std::runtime_error for what CUDA refuses.
  bool update(const Residency& residency, UploadStream& copies, dev::Stream stream);

  // Whether update() has anything to tell.
  bool changed(const Residency& residency) const { return version_ != residency.version(); }

  // Brings the pages that came.
  void bring(UploadStream& copies);

  // Before a pass: what wishes are written as. `frame`: of the residency's requests.
  void begin_wishes(uint32_t frame, dev::Stream stream);
  // After it: adds them to the residency's. Waits for the stream.
  void hand_back_wishes(const Residency& residency, dev::Stream stream) const;

  void fill(AssetArrays& out) const;

 private:
  static constexpr uint32_t nowhere = none;

  void make_room(const PageTable& pages, UploadStream& copies);
  void take_slot(uint32_t page);
  void bring_errors(const Residency& residency, UploadStream& copies, dev::Stream stream);

  std::shared_ptr<const Asset> source_;
  uint32_t slot_vertices_ = 0, slot_triangles_ = 0, slots_ = 0;
  uint64_t version_ = 0;                           // of the residency; 0: none
  std::vector<std::shared_ptr<const Page>> held_;  // what has a slot; null: nothing
  std::vector<uint32_t> coming_;                   // of these: what is to be copied
  std::vector<uint32_t> slot_of_, free_;
  std::vector<Cluster> records_;  // with places in the pool
  uint32_t wish_frame_ = 0;

  RootCluster root_;
  DeviceArray<Node> nodes_;
  DeviceArray<Group> groups_;
  DeviceArray<Cluster> clusters_;
  DeviceArray<uint32_t> numbers_, materials_, wishes_;
  DeviceArray<float> bounds_, positions_, normals_, uvs_, colors_;
  DeviceArray<uint8_t> triangles_;
};

}  // namespace nanite_cull::cuda
