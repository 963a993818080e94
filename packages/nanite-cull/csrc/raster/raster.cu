#include <algorithm>
#include <string>

#include "native/check.h"
#include "raster/device_raster.h"
#include "raster/raster.cuh"

namespace nanite_cull::cuda {

namespace {

static_assert(id_triangle_bits == triangle_bits, "ids are those of the host");
constexpr uint64_t most_room = uint64_t(1) << 31;

int64_t blocks_for(size_t pixels) {
  return dev::grid_blocks(static_cast<int64_t>((pixels + piece_threads - 1) / piece_threads), 16);
}

// Gives a list half as much again as it needs, for the next frame's needs are others. Where there is no
// memory for that, `room` stays.
template <class T>
void grow(DeviceArray<T>& list, uint64_t& room, uint64_t needed) {
  if (needed <= room) return;
  const uint64_t wanted = std::min(needed + needed / 2, most_room);
  list.resize(wanted);
  room = wanted;
}

}  // namespace

void Rasteriser::draw(DeviceScene& scene, const Culler& culler, const View& view,
                      const RasterOptions& options, RasterStats& stats, dev::Stream stream, size_t views) {
  const uint64_t slots = culler.visible().size();
  native::demand(slots <= max_slots, [&] {
    return "raster: max_visible_clusters must be at most 2^25 (the ids of a visibility buffer), got " +
           std::to_string(slots);
  });
  width_ = view.width, height_ = view.height;
  pixels_.resize(views * size_t(width_) * height_), left_.resize(slots);
  small_.resize(1), large_.resize(1);
  pixels_.fill(0, stream);
  scene.bring_pages(stream);
  pass_ = {};
  pass_.scene = scene.arrays(), pass_.to_clip = culler.to_clip();
  pass_.visible = culler.visible().data(), pass_.capacity = static_cast<uint32_t>(slots);
  pass_.small_count = &culler.counts()->small, pass_.large_count = &culler.counts()->large;
  pass_.pixels = pixels_.data(), pass_.width = width_, pass_.height = height_;
  if (options.overdraw) {
    overdraw_.resize(pixels_.size()), overdraw_.fill(0, stream);
    pass_.overdraw = overdraw_.data();
  }
  pass_.cull_back = options.cull_back, has_holes_ = scene.any_masked();
  pass_.left = left_.data(), pass_.small = small_.data(), pass_.large = large_.data();
  stats = {};
  run(pass_, stats, stream);
}

void Rasteriser::draw_added(const Culler& culler, bool ids, RasterStats& stats, dev::Stream stream) {
  if (ids)
    dev::launch(rename_pixels, blocks_for(pixels_.size()), piece_threads, 0, stream, pixels_.data(),
                static_cast<int64_t>(pixels_.size()), pass_.capacity, culler.main_keys(),
                culler.main_counts(), culler.keys(), culler.counts());
  RasterPass pass = pass_;
  pass.small_slots = culler.added(0), pass.large_slots = culler.added(1);
  pass.small_count = culler.added_count(0), pass.large_count = culler.added_count(1);
  run(pass, stats, stream);
}

void Rasteriser::run(RasterPass pass, RasterStats& stats, dev::Stream stream) {
  small_.fill(0, stream);
  dev::launch(pass.overdraw ? draw_small<true> : draw_small<false>, dev::grid_blocks(pass.capacity, 16),
              small_threads, 0, stream, pass);
  triangles_.resize(triangle_room), pieces_.resize(piece_room);
  LargeCounts large;
  for (bool fits = false; !fits;) {
    pass.triangles = triangles_.data(), pass.triangle_capacity = static_cast<uint32_t>(triangle_room);
    pass.pieces = pieces_.data(), pass.piece_capacity = static_cast<uint32_t>(piece_room);
    large_.fill(0, stream);
    dev::launch(set_up_large, dev::grid_blocks(pass.capacity, 6), set_up_threads, 0, stream, pass);
    const int64_t piece_blocks = dev::grid_blocks(piece_room / 4, 16);
    dev::launch(pass.overdraw ? draw_pieces<false, true> : draw_pieces<false, false>, piece_blocks,
                piece_threads, 0, stream, pass);
    if (has_holes_)
      dev::launch(pass.overdraw ? draw_pieces<true, true> : draw_pieces<true, false>, piece_blocks,
                  piece_threads, 0, stream, pass);
    large_.read_back(&large, 0, 1, stream);
    fits = large.triangles <= triangle_room && large.pieces <= piece_room;
    native::demand(large.triangles <= most_room && large.pieces <= most_room, [] {
      return std::string("raster: more than 2^31 tiles of large triangles; draw a smaller image");
    });
    grow(triangles_, triangle_room, large.triangles), grow(pieces_, piece_room, large.pieces);
  }
  SmallCounts small;
  small_.read_back(&small, 0, 1, stream);
  Count clusters[2];
  dev::read_back(&clusters[0], pass.small_count, sizeof(Count), stream);
  dev::read_back(&clusters[1], pass.large_count, sizeof(Count), stream);
  stats.clusters += clusters[0] + clusters[1];
  stats.drawn_triangles += small.drawn + large.triangles, stats.clipped_triangles += large.clipped;
}

void Rasteriser::split(float* depths, uint32_t* ids, dev::Stream stream) {
  dev::launch(split_pixels, blocks_for(pixels_.size()), piece_threads, 0, stream, pixels_.data(),
              static_cast<int64_t>(pixels_.size()), depths, ids);
}

void Rasteriser::read_back(VisibilityBuffer& out, dev::Stream stream) {
  const size_t count = pixels_.size();
  depths_.resize(count), ids_.resize(count);
  split(depths_.data(), ids_.data(), stream);
  out.width = width_, out.height = height_;
  out.depth.resize(count), out.id.resize(count), out.overdraw.resize(overdraw() ? count : 0);
  depths_.read_back(out.depth.data(), 0, count, stream);
  ids_.read_back(out.id.data(), 0, count, stream);
  if (overdraw()) overdraw_.read_back(out.overdraw.data(), 0, count, stream);
}

}  // namespace nanite_cull::cuda
