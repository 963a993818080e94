#include "scene/device_pages.h"

#include <algorithm>
#include <string>

#include "native/check.h"
#include "scene/scene.h"
#include "store/ncl_file.h"

namespace nanite_cull::cuda {

namespace {

template <class T>
void upload_rows(DeviceArray<T>& pool, const std::vector<T>& rows, size_t first, UploadStream& copies) {
  if (!rows.empty()) copies.upload(pool.data() + first, rows.data(), rows.size() * sizeof(T));
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

void DevicePages::take_slot(uint32_t page) {
  slot_of_[page] = free_.back();
  free_.pop_back();
  coming_.push_back(page);
}

void DevicePages::bring(UploadStream& copies) {
  for (const uint32_t page : coming_) {
    const Page& data = *held_[page];
    const size_t slot = slot_of_[page], vertex = slot * slot_vertices_, triangle = slot * slot_triangles_;
    upload_rows(positions_, data.positions, 3 * vertex, copies);
    upload_rows(normals_, data.normals, 3 * vertex, copies);
    upload_rows(uvs_, data.uvs, 2 * vertex, copies);
    upload_rows(colors_, data.colors, 4 * vertex, copies);
    upload_rows(materials_, data.materials, vertex, copies);
    upload_rows(triangles_, data.triangles, 3 * triangle, copies);
  }
  coming_.clear();
}

// Slots for all pages that are there. A larger pool begins empty.
void DevicePages::make_room(const PageTable& pages, UploadStream& copies) {
  const auto needed =
      static_cast<uint32_t>(std::count_if(pages.begin(), pages.end(), [](auto& p) { return p; }));
  if (needed <= slots_) return;
  slots_ = std::min(needed + needed / 2, static_cast<uint32_t>(pages.size()));
  native::demand(uint64_t(slots_) * std::max(slot_vertices_, slot_triangles_) < none, [] {
    return std::string(
        "Renderer: device \"cuda\" takes pages of a file with less than 2^32 vertices together; "
        "lower budget=");
  });
  copies.wait();
  const Vertices& like = **std::find_if(pages.begin(), pages.end(), [](auto& p) { return p; });
  const size_t vertices = size_t(slots_) * slot_vertices_;
  positions_.resize(3 * vertices), triangles_.resize(3 * size_t(slots_) * slot_triangles_);
  normals_.resize(like.normals.empty() ? 0 : 3 * vertices), uvs_.resize(like.uvs.empty() ? 0 : 2 * vertices);
  colors_.resize(like.colors.empty() ? 0 : 4 * vertices);
  materials_.resize(like.materials.empty() ? 0 : vertices);
  std::fill(held_.begin(), held_.end(), nullptr), std::fill(slot_of_.begin(), slot_of_.end(), nowhere);
  free_.clear(), coming_.clear();
  for (uint32_t slot = slots_; slot > 0; --slot) free_.push_back(slot - 1);
}

// What says of groups, clusters and nodes whether they are there; once also all else that stays.
void DevicePages::bring_errors(const Residency& residency, UploadStream& copies, dev::Stream stream) {
  const Asset& asset = residency.asset();
  if (version_ == 0) {
    std::vector<uint32_t> numbers;
    for (const Cluster& c : source_->clusters) numbers.push_back(c.triangle_begin);
    numbers_.upload(numbers, stream);
    wishes_.resize(asset.groups.size()), wishes_.fill(0, stream);
    upload_bounds(asset.bounds, bounds_, stream);
    nodes_.resize(asset.nodes.size()), groups_.resize(asset.groups.size()), clusters_.resize(records_.size());
    dev::wait(stream);  // before the host's numbers go
  }
  const size_t count = asset.clusters.size();
  upload_rows(nodes_, asset.nodes, 0, copies), upload_rows(groups_, asset.groups, 0, copies);
  upload_rows(bounds_, asset.bounds.error, row_error * count, copies);
  upload_rows(clusters_, records_, 0, copies);
  root_ = root_of(asset);
}

bool DevicePages::update(const Residency& residency, UploadStream& copies, dev::Stream stream) {
  if (!changed(residency)) return false;
  const PageTable& pages = residency.pages();
  for (uint32_t p = 0; p < pages.size(); ++p)
    if (held_[p] && held_[p] != pages[p]) {
      free_.push_back(slot_of_[p]);
      held_[p] = nullptr, slot_of_[p] = nowhere;
    }
  coming_.erase(std::remove_if(coming_.begin(), coming_.end(), [&](uint32_t p) { return !held_[p]; }),
                coming_.end());
  make_room(pages, copies);
  for (uint32_t p = 0; p < pages.size(); ++p)
    if (pages[p] && !held_[p]) held_[p] = pages[p], take_slot(p);
  for (uint32_t c = 0; c < records_.size(); ++c) {
    const uint32_t page = source_->file->page_of(c), slot = slot_of_[page];
    if (slot == nowhere) continue;
    const Cluster& stored = source_->clusters[c];
    records_[c].vertex_begin = slot * slot_vertices_ + (stored.vertex_begin - held_[page]->vertex_begin);
    records_[c].triangle_begin =
        slot * slot_triangles_ + (stored.triangle_begin - held_[page]->triangle_begin);
  }
  bring_errors(residency, copies, stream);
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
