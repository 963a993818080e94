#include "scene/device_scene.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "build/srgb.h"
#include "core/queue_layout.h"
#include "native/check.h"

namespace nanite_cull::cuda {

AssetArrays DeviceScene::AssetMemory::arrays() const {
  AssetArrays out{};
  if (pages) {
    pages->fill(out);
  } else {
    out.nodes = nodes.data(), out.groups = groups.data(), out.clusters = clusters.data();
    out.bounds = bounds.data(), out.cluster_count = static_cast<uint32_t>(clusters.size());
    out.box = source->box, out.root = root_of(*source);
    out.positions = positions.data(), out.vertex_refs = vertex_refs.data(), out.triangles = triangles.data();
    out.materials = materials.data(), out.uvs = uvs.data(), out.colors = colors.data();
    out.normals = normals.data();
  }
  out.surfaces = drawn.data(), out.surface_count = static_cast<uint32_t>(drawn.size());
  out.looks = looks.data(), out.look_count = static_cast<uint32_t>(looks.size());
  return out;
}

bool DeviceScene::AssetMemory::is(const std::shared_ptr<const Asset>& asset) const {
  return source == asset && surfaces == asset->surfaces;
}

// Assets that have the same texture share it.
std::shared_ptr<DeviceScene::TextureMemory> DeviceScene::bring_texture(const Surfaces& surfaces,
                                                                       const Texture& texture,
                                                                       dev::Stream stream) {
  for (const auto& known : textures_)
    if (auto memory = known.lock(); memory && memory->source->texture().texels == texture.texels)
      return memory;
  auto memory = std::make_shared<TextureMemory>();
  memory->source = *std::find_if(
      surfaces.textures.begin(), surfaces.textures.end(),
      [&](const std::shared_ptr<const MipChain>& t) { return t->texture().texels == texture.texels; });
  memory->texels.resize(memory->source->bytes() / sizeof(uint32_t));
  memory->texels.upload(texture.texels, 0, memory->texels.size(), stream);
  if (linear_.size() == 0) {
    linear_.resize(256);
    linear_.upload(texture.linear, 0, 256, stream);
  }
  textures_.push_back(memory);
  return memory;
}

void DeviceScene::bring_surfaces(AssetMemory& memory, dev::Stream stream) {
  const Asset& a = *memory.source;
  memory.surfaces = a.surfaces;
  if (!a.surfaces || !(a.surfaces->any_masked() || a.surfaces->any_two_sided())) return;
  std::vector<Surface> table = a.surfaces->table;
  for (Surface& surface : table) {
    if (!surface.masked || !surface.texture.texels) {
      surface.texture = {};
      continue;
    }
    memory.textures.push_back(bring_texture(*a.surfaces, surface.texture, stream));
    surface.texture.texels = memory.textures.back()->texels.data();
    surface.texture.linear = linear_.data();
  }
  memory.drawn.upload(table, stream);
  memory.materials.upload(a.materials, stream);
  if (a.surfaces->any_masked()) memory.uvs.upload(a.uvs, stream), memory.colors.upload(a.colors, stream);
  dev::wait(stream);  // before the host's table goes
}

// All that pixels are resolved to, where bring_surfaces() left it out.
void DeviceScene::bring_looks(AssetMemory& memory, dev::Stream stream) {
  if (memory.resolves) return;
  const Asset& a = *memory.source;
  memory.normals.upload(a.normals, stream);  // of a streamed asset all are empty: pages have them
  if (memory.materials.size() == 0) memory.materials.upload(a.materials, stream);
  if (memory.uvs.size() == 0) memory.uvs.upload(a.uvs, stream);
  if (memory.colors.size() == 0) memory.colors.upload(a.colors, stream);
  std::vector<Surface> table = memory.surfaces ? memory.surfaces->table : std::vector<Surface>();
  for (Surface& surface : table) {
    if (!surface.texture.texels) continue;
    memory.textures.push_back(bring_texture(*memory.surfaces, surface.texture, stream));
    surface.texture.texels = memory.textures.back()->texels.data();
    surface.texture.linear = linear_.data();
  }
  memory.looks.upload(table, stream);
  memory.resolves = true;
  dev::wait(stream);  // before the host's table goes
}

void DeviceScene::bring_arrays(dev::Stream stream) {
  std::vector<AssetArrays> arrays;
  bins_ = 1;
  for (const AssetMemory& memory : assets_) {
    arrays.push_back(memory.arrays());
    arrays.back().first_bin = bins_, bins_ += arrays.back().look_count;
  }
  asset_arrays_.upload(arrays, stream);
  dev::wait(stream);  // the host's copies end here
}

void DeviceScene::bring_attributes(dev::Stream stream) {
  if (light_.size() == 0) {
    light_.resize(light_entries);
    light_.upload(light_table(), 0, light_entries, stream);
  }
  const bool complete = std::all_of(assets_.begin(), assets_.end(), [](auto& m) { return m.resolves; });
  if (complete) return;
  for (AssetMemory& memory : assets_) bring_looks(memory, stream);
  bring_arrays(stream);
}

void DeviceScene::add(std::shared_ptr<const Asset> asset, dev::Stream stream) {
  native::demand(std::max(asset->nodes.size(), asset->groups.size()) <= most_items, [] {
    return "Renderer: device \"cuda\" takes assets of at most " + std::to_string(most_items) +
           " nodes and groups; larger ones need device \"cpu\"";
  });
  AssetMemory memory;
  memory.source = std::move(asset);
  const Asset& a = *memory.source;
  if (a.file) {
    memory.pages = std::make_unique<DevicePages>(memory.source);
    bring_surfaces(memory, stream);
    assets_.push_back(std::move(memory));
    return;
  }
  memory.nodes.upload(a.nodes, stream), memory.groups.upload(a.groups, stream);
  memory.clusters.upload(a.clusters, stream), memory.positions.upload(a.positions, stream);
  memory.vertex_refs.upload(a.vertex_refs, stream), memory.triangles.upload(a.triangles, stream);
  upload_bounds(a.bounds, memory.bounds, stream);
  bring_surfaces(memory, stream);
  assets_.push_back(std::move(memory));
}

// Whether the assets are there, with their materials.
bool DeviceScene::holds_assets(const Scene& scene) const {
  bool same = assets_.size() == scene.assets.size() && asset_arrays_.size() == assets_.size();
  for (size_t i = 0; same && i < assets_.size(); ++i) same = assets_[i].is(scene.assets[i]);
  return same;
}

void DeviceScene::bring_assets(const Scene& scene, dev::Stream stream) {
  if (copies_) copies_->wait();  // before memory goes
  // those that stay keep their memory
  std::vector<AssetMemory> before = std::move(assets_);
  assets_.clear();
  depth_ = 0, most_clusters_ = 0, any_masked_ = false;
  for (const auto& asset : scene.assets) {
    const auto kept = std::find_if(before.begin(), before.end(),
                                   [&](const AssetMemory& memory) { return memory.is(asset); });
    if (kept == before.end())
      add(asset, stream);
    else
      assets_.push_back(std::move(*kept));
    depth_ = std::max(depth_, asset->depth);
    any_masked_ |= asset->surfaces && asset->surfaces->any_masked();
    most_clusters_ = std::max(most_clusters_, static_cast<uint32_t>(asset->clusters.size()));
  }
  bring_arrays(stream);
  textures_.erase(std::remove_if(textures_.begin(), textures_.end(), [](auto& t) { return t.expired(); }),
                  textures_.end());
}

void DeviceScene::bring_instances(const Scene& scene, int64_t first, int64_t count, dev::Stream stream) {
  std::vector<InstanceRecord> records(count);
  std::vector<Sphere> spheres(count);
  const InstanceLanes& lanes = scene.lanes;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t i = first + k;
    InstanceRecord& record = records[k];
    const Placement place = scene.placement(i);
    static_assert(sizeof(Wide) == sizeof(place.linear[0]), "the same bits");
    std::memcpy(record.linear, place.linear, sizeof(record.linear));
    std::memcpy(record.translation, place.translation, sizeof(record.translation));
    for (int e = 0; e < 9; ++e) record.inverse[e] = lanes.inverse[e][i];
    record.largest = lanes.largest[i], record.smallest = lanes.smallest[i];
    record.asset = lanes.asset[i], record.mirrored = scene.mirrored(i);
    spheres[k] = {scene.spheres.x[i], scene.spheres.y[i], scene.spheres.z[i], scene.spheres.r[i]};
  }
  instances_.upload(records.data(), first, count, stream);
  spheres_.upload(spheres.data(), first, count, stream);
  dev::wait(stream);  // the host's copies end here
  copied_bytes_ += count * (sizeof(InstanceRecord) + sizeof(Sphere));
}

// Neighbouring stretches that changed in one piece, at most 16 of them.
template <class Changed, class Bring>
void DeviceScene::each_stretch(Changed&& changed, Bring&& bring) const {
  for (int64_t first = 0; first < count_;) {
    int64_t last = first;
    while (last < count_ && last - first < 16 * Scene::stretch && changed(last / Scene::stretch))
      last = std::min(last + Scene::stretch, count_);
    if (last > first) bring(first, last - first);
    first = last > first ? last : first + Scene::stretch;
  }
}

// Whether pages came or went, or frames of wishes are counted on: then kernels are told.
bool DeviceScene::tell_of_pages(const Streamer::Hold& streamed, dev::Stream stream) {
  bool changed = false, any = false;
  for (AssetMemory& memory : assets_) {
    if (!memory.pages) continue;
    const Residency* const residency = streamed.find(*memory.source);
    native::demand(residency != nullptr, [] {
      return std::string(
          "Renderer: an asset is streamed from a file; give a Streamer that has begun a frame of it");
    });
    if (memory.pages->changed(*residency)) {
      if (!copies_) copies_ = std::make_unique<UploadStream>(staging_bytes);
      if (!changed) copies_->begin(stream);
      changed = memory.pages->update(*residency, *copies_, stream);
    }
    any = true;
    memory.pages->begin_wishes(residency->requests().frame, stream);
  }
  if (changed) copies_->hold_back(stream), pages_come_ = true;
  if (any) bring_arrays(stream);
  return changed;
}

void DeviceScene::bring_pages(dev::Stream stream) {
  if (!pages_come_) return;
  for (AssetMemory& memory : assets_)
    if (memory.pages) memory.pages->bring(*copies_);
  copies_->hold_back(stream);
  pages_come_ = false;
}

void DeviceScene::hand_back_wishes(const Streamer::Hold& streamed, dev::Stream stream) const {
  for (const AssetMemory& memory : assets_)
    if (memory.pages) memory.pages->hand_back_wishes(*streamed.find(*memory.source), stream);
}

void DeviceScene::update(const Scene& scene, dev::Stream stream, const Streamer::Hold& streamed) {
  copied_bytes_ = 0;
  const int64_t count = scene.size();
  const bool anew = scene_ != &scene || count_ != count;
  const bool has_assets = holds_assets(scene);
  const bool scene_changed = anew || !has_assets || revision_ != scene.revision();
  changed_ = true;
  if (scene_changed) scene_ = nullptr;  // until all is there
  if (!has_assets) bring_assets(scene, stream);
  const bool pages_changed = tell_of_pages(streamed, stream);
  changed_ = scene_changed || pages_changed;
  if (!scene_changed) return;
  if (anew) instances_.resize(count), spheres_.resize(count);
  count_ = count;
  each_stretch([&](int64_t number) { return anew || scene.changed_since(revision_, number); },
               [&](int64_t first, int64_t n) { bring_instances(scene, first, n, stream); });
  scene_ = &scene, revision_ = scene.revision();
}

void DeviceScene::bring_motion(const Scene& scene, const Track& track, uint64_t epoch, uint64_t revision,
                               dev::Stream stream) {
  motion_.resize(instances_.size());
  dev::copy_on_device(motion_.data(), instances_.data(), instances_.size() * sizeof(InstanceRecord), stream);
  std::vector<InstanceRecord> records;
  each_stretch([&](int64_t number) { return scene.changed_since(revision, number); },
               [&](int64_t first, int64_t count) {
                 records.assign(count, InstanceRecord());
                 for (int64_t k = 0; k < count; ++k) {
                   const Placement now = scene.placement(first + k);
                   Placement place;
                   if (!track.previous(first + k, epoch, now, place)) place = now;
                   std::memcpy(records[k].linear, place.linear, sizeof(records[k].linear));
                   std::memcpy(records[k].translation, place.translation, sizeof(records[k].translation));
                 }
                 motion_.upload(records.data(), first, count, stream);
                 dev::wait(stream);  // before the records are others
               });
}

std::shared_ptr<const Places> DeviceScene::keep_places(dev::Stream stream) {
  const auto find = [&](auto&& fits) {
    const auto found = std::find_if(places_.begin(), places_.end(), fits);
    return found == places_.end() ? nullptr : *found;
  };
  const auto current = find([&](auto& p) {
    return p.use_count() > 1 && p->revision == revision_ && p->records.size() == instances_.size();
  });
  if (current) return current;
  std::shared_ptr<Places> places = find([](auto& p) { return p.use_count() == 1; });
  if (!places) places_.push_back(places = std::make_shared<Places>());
  places->records.resize(instances_.size()), places->revision = revision_;
  dev::copy_on_device(places->records.data(), instances_.data(), instances_.size() * sizeof(InstanceRecord),
                      stream);
  return places;
}

SceneArrays DeviceScene::arrays() const {
  return {static_cast<uint32_t>(count_), spheres_.data(), instances_.data(), asset_arrays_.data()};
}

}  // namespace nanite_cull::cuda
