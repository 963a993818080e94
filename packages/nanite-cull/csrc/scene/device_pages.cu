#include "scene/device_pages.h"

#include <algorithm>
#include <string>

#include "native/check.h"
#include "scene/scene.h"
#include "store/ncl_file.h"

namespace nanite_cull::cuda {

namespace {

template <class T>
void upload_rows(DeviceArray<T>& pool, const std::vector<T>& rows, size_t first, dev::Stream stream) {
  if (!rows.empty()) pool.upload(rows.data(), first, rows.size(), stream);
}

}  // namespace

void upload_bounds(const ClusterBounds& b, DeviceArray<float>& out, dev::Stream stream) {
  const std::vector<float>* const rows[bounds_rows] = {
      &b.lo[0], &b.lo[1], &b.lo[2], &b.hi[0], &b.hi[1], &b.hi[2], &b.x, &b.y, &b.z, &b.r, &b.error};
  const size_t count = b.error.size();
  out.resize(bounds_rows * count);
  for (size_t row = 0; row < bounds_rows; ++row) out.upload(rows[row]->data(), row * count, count, stream);
}

DevicePages::DevicePages(std::shared_ptr<const Asset> asset)
    : source_(std::move(asset)), records_(source_->clusters) {
  const NclFile& file = *source_->file;
  const size_t pages = file.tables().pages.size();
  held_.resize(pages), slot_of_.assign(pages, nowhere);
  std::vector<uint32_t> vertices(pages), triangles(pages);
  for (uint32_t c = 0; c < records_.size(); ++c) {
    const uint32_t page = file.page_of(c);
    vertices[page] += records_[c].vertex_count, triangles[page] += records_[c].triangle_count;
  }
  slot_vertices_ = *std::max_element(vertices.begin(), vertices.end());
  slot_triangles_ = *std::max_element(triangles.begin(), triangles.end());
}

void DevicePages::put_in(uint32_t page, const Page& data, dev::Stream stream) {
  const uint32_t slot = free_.back();
  free_.pop_back();
  slot_of_[page] = slot;
  const size_t vertex = size_t(slot) * slot_vertices_, triangle = size_t(slot) * slot_triangles_;
  upload_rows(positions_, data.positions, 3 * vertex, stream);
  upload_rows(normals_, data.normals, 3 * vertex, stream);
  upload_rows(uvs_, data.uvs, 2 * vertex, stream);
  upload_rows(colors_, data.colors, 4 * vertex, stream);
  upload_rows(materials_, data.materials, vertex, stream);
  upload_rows(triangles_, data.triangles, 3 * triangle, stream);
}

// Slots for all pages that are there. A larger pool begins empty.
void DevicePages::make_room(const PageTable& pages) {
  const auto needed =
      static_cast<uint32_t>(std::count_if(pages.begin(), pages.end(), [](auto& p) { return p; }));
  if (needed <= slots_) return;
  slots_ = std::min(needed + needed / 2, static_cast<uint32_t>(pages.size()));
  native::demand(uint64_t(slots_) * std::max(slot_vertices_, slot_triangles_) < none, [] {
    return std::string(
        "Renderer: device \"cuda\" takes pages of a file with less than 2^32 vertices together; "
        "lower budget=");
  });
  const Vertices& like = **std::find_if(pages.begin(), pages.end(), [](auto& p) { return p; });
  const size_t vertices = size_t(slots_) * slot_vertices_;
  positions_.resize(3 * vertices), triangles_.resize(3 * size_t(slots_) * slot_triangles_);
  normals_.resize(like.normals.empty() ? 0 : 3 * vertices), uvs_.resize(like.uvs.empty() ? 0 : 2 * vertices);
  colors_.resize(like.colors.empty() ? 0 : 4 * vertices);
  materials_.resize(like.materials.empty() ? 0 : vertices);
  std::fill(held_.begin(), held_.end(), nullptr), std::fill(slot_of_.begin(), slot_of_.end(), nowhere);
  free_.clear();
  for (uint32_t slot = slots_; slot > 0; --slot) free_.push_back(slot - 1);
}

// What says of groups, clusters and nodes whether they are there; once also all else that stays.
void DevicePages::bring_errors(const Residency& residency, dev::Stream stream) {
  const Asset& asset = residency.asset();
  if (version_ == 0) {
    std::vector<uint32_t> numbers;
    for (const Cluster& c : source_->clusters) numbers.push_back(c.triangle_begin);
    numbers_.upload(numbers, stream);
    wishes_.resize(asset.groups.size()), wishes_.fill(0, stream);
    upload_bounds(asset.bounds, bounds_, stream);
    dev::wait(stream);  // before the host's numbers go
  }
  const size_t count = asset.clusters.size();
  nodes_.upload(asset.nodes, stream), groups_.upload(asset.groups, stream);
  bounds_.upload(asset.bounds.error.data(), row_error * count, count, stream);
  clusters_.upload(records_, stream);
  root_ = root_of(asset);
}

bool DevicePages::update(const Residency& residency, dev::Stream stream) {
  if (version_ == residency.version()) return false;
  const PageTable& pages = residency.pages();
  for (uint32_t p = 0; p < pages.size(); ++p)
    if (held_[p] && held_[p] != pages[p]) {
      free_.push_back(slot_of_[p]);
      held_[p] = nullptr, slot_of_[p] = nowhere;
    }
  make_room(pages);
  for (uint32_t p = 0; p < pages.size(); ++p)
    if (pages[p] && !held_[p]) put_in(p, *(held_[p] = pages[p]), stream);
  for (uint32_t c = 0; c < records_.size(); ++c) {
    const uint32_t page = source_->file->page_of(c), slot = slot_of_[page];
    if (slot == nowhere) continue;
    const Cluster& stored = source_->clusters[c];
    records_[c].vertex_begin = slot * slot_vertices_ + (stored.vertex_begin - held_[page]->vertex_begin);
    records_[c].triangle_begin =
        slot * slot_triangles_ + (stored.triangle_begin - held_[page]->triangle_begin);
  }
  bring_errors(residency, stream);
  dev::wait(stream);  // the host's records may change
  version_ = residency.version();
  return true;
}

void DevicePages::begin_wishes(uint32_t frame, dev::Stream stream) {
  if (frame < wish_frame_) wishes_.fill(0, stream);  // frames are counted anew
  wish_frame_ = frame;
}

void DevicePages::hand_back_wishes(const Residency& residency, dev::Stream stream) const {
  std::vector<uint32_t> words(wishes_.size());
  wishes_.read_back(words.data(), 0, words.size(), stream);
  for (uint32_t g = 0; g < words.size(); ++g) residency.requests().raise(g, words[g]);
}

void DevicePages::fill(AssetArrays& out) const {
  out.nodes = nodes_.data(), out.groups = groups_.data(), out.clusters = clusters_.data();
  out.bounds = bounds_.data(), out.cluster_count = static_cast<uint32_t>(clusters_.size());
  out.box = source_->box, out.root = root_;
  out.positions = positions_.data(), out.triangles = triangles_.data(), out.vertex_refs = nullptr;
  out.normals = normals_.data(), out.uvs = uvs_.data(), out.colors = colors_.data();
  out.materials = materials_.data();
  out.triangle_numbers = numbers_.data(), out.wishes = wishes_.data(), out.wish_frame = wish_frame_;
}

}  // namespace nanite_cull::cuda
