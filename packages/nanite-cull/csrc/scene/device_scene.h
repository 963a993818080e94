// A scene in the memory of a device: what kernels see of it, and who keeps it there. Assets are copied once,
// instances in pieces as they change; a frame of a scene that stands still copies nothing.
#pragma once

#include <memory>

#include "build/surfaces.h"
#include "scene/device_pages.h"
#include "scene/scene.h"
#include "store/streamer.h"

namespace nanite_cull::cuda {

// Where the instances of a scene were in some frame.
struct Places {
  DeviceArray<InstanceRecord> records;
  uint64_t revision = 0;  // of the scene in that frame
};

class DeviceScene {
 public:
  // Brings what changed since the last call, of streamed assets what culling reads; waits for the stream
  // where there was anything. The caller holds the scene's lock; `streamed`: what is there of their pages.
  // Throws native::ValueError for a streamed asset that no frame of the streamer began with,
  // std::runtime_error for what CUDA refuses.
  void update(const Scene& scene, dev::Stream stream,
              const Streamer::Hold& streamed = Streamer::Hold(nullptr));

  // Brings the pages that came, by a stream of their own, for which `stream` waits: before it draws, and
  // while it culls.
  void bring_pages(dev::Stream stream);

  // After a pass: what it would rather have shown of streamed assets. Waits for the stream.
  void hand_back_wishes(const Streamer::Hold& streamed, dev::Stream stream) const;

  SceneArrays arrays() const;

  // Brings what pixels are resolved to, of the assets that are there and have it not yet: attributes of all
  // vertices, materials and their textures.
  void bring_attributes(dev::Stream stream);
  uint32_t bins() const { return bins_; }               // of material_bin(), of all assets
  const float* light() const { return light_.data(); }  // of build/srgb.h

  // Where the instances are, for the next frame's occlusion: one copy for all who ask before it changes.
  std::shared_ptr<const Places> keep_places(dev::Stream stream);
  const Scene* source() const { return scene_; }  // compared, not followed

  // Brings where the instances were when `epoch` of a track began, for velocities; one that was not there
  // counts as standing still. `revision`: of the scene at that time. The scene is up to date.
  void bring_motion(const Scene& scene, const Track& track, uint64_t epoch, uint64_t revision,
                    dev::Stream stream);
  const InstanceRecord* motion() const { return motion_.data(); }

  bool any_masked() const { return any_masked_; }            // holes are somewhere
  int depth() const { return depth_; }                       // of the deepest hierarchy, in nodes
  uint32_t most_clusters() const { return most_clusters_; }  // of an asset
  uint64_t copied_bytes() const { return copied_bytes_; }    // by the last update
  bool changed_by_last_update() const { return changed_; }

  std::size_t staging_bytes = 4 << 20;  // pinned memory: three times as much

 private:
  struct TextureMemory {
    std::shared_ptr<const MipChain> source;
    DeviceArray<uint32_t> texels;
  };
  struct AssetMemory {
    std::shared_ptr<const Asset> source;
    std::shared_ptr<const Surfaces> surfaces;  // of the source, when it was brought
    std::unique_ptr<DevicePages> pages;        // of a streamed one, in place of what follows
    DeviceArray<Node> nodes;
    DeviceArray<Group> groups;
    DeviceArray<Cluster> clusters;
    DeviceArray<float> bounds, positions;
    DeviceArray<uint32_t> vertex_refs;
    DeviceArray<uint8_t> triangles;
    // where materials decide about holes and sides
    DeviceArray<Surface> drawn;
    std::vector<std::shared_ptr<TextureMemory>> textures;
    DeviceArray<uint32_t> materials;
    DeviceArray<float> uvs, colors;
    // where pixels are resolved
    bool resolves = false;
    DeviceArray<Surface> looks;
    DeviceArray<float> normals;
    AssetArrays arrays() const;
    bool is(const std::shared_ptr<const Asset>& asset) const;
  };
  void add(std::shared_ptr<const Asset> asset, dev::Stream stream);
  void bring_surfaces(AssetMemory& memory, dev::Stream stream);
  void bring_looks(AssetMemory& memory, dev::Stream stream);
  void bring_arrays(dev::Stream stream);
  std::shared_ptr<TextureMemory> bring_texture(const Surfaces& surfaces, const Texture& texture,
                                               dev::Stream stream);
  bool holds_assets(const Scene& scene) const;
  bool tell_of_pages(const Streamer::Hold& streamed, dev::Stream stream);
  void bring_assets(const Scene& scene, dev::Stream stream);
  void bring_instances(const Scene& scene, int64_t first, int64_t count, dev::Stream stream);
  template <class Changed, class Bring>
  void each_stretch(Changed&& changed, Bring&& bring) const;

  const Scene* scene_ = nullptr;  // compared, not followed
  uint64_t revision_ = 0, copied_bytes_ = 0;
  int64_t count_ = 0;
  int depth_ = 0;
  uint32_t most_clusters_ = 0, bins_ = 1;
  bool any_masked_ = false, changed_ = false;
  std::vector<AssetMemory> assets_;
  std::vector<std::weak_ptr<TextureMemory>> textures_;  // those that assets share
  DeviceArray<float> linear_, light_;                   // of Texture, of colours of vertices
  DeviceArray<AssetArrays> asset_arrays_;
  DeviceArray<Sphere> spheres_;
  DeviceArray<InstanceRecord> instances_, motion_;
  std::vector<std::shared_ptr<Places>> places_;  // those that nobody else has serve again
  bool pages_come_ = false;                      // since bring_pages()
  std::unique_ptr<UploadStream> copies_;         // of pages; goes before what they write to
};

}  // namespace nanite_cull::cuda
