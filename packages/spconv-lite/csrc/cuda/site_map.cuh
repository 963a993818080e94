// Sites on the device. Coordinate to row: a dense grid of rows where the grid is small, else a hash table
// with 64-bit keys and linear probing.
#pragma once

#include <core/rulebook.h>
#include <cuda/rulebook.h>

namespace spconv_lite::cuda {

// An empty place, in memory filled with the byte 0x7f: larger than every row, so that atomicMin keeps the
// least row of equal sites.
inline constexpr int32_t no_row = Report::none;
inline constexpr int no_row_byte = 0x7f;
inline constexpr unsigned long long no_key = ~0ull;

// A dense grid of 4-byte rows up to this size is cleared and read within the second-level cache.
inline constexpr int64_t most_dense_cells = int64_t{1} << 23;

// read_site and write_site with constant indices only: a dynamic one would put the site into local memory.
DEV_FN Site load_site(const int32_t* indices, int64_t row, int ndim) {
  const int32_t* at = indices + row * (ndim + 1);
  Site site{at[0], {0, 0, 0, 0}};
  DEV_UNROLL
  for (int axis = 0; axis < max_axes; ++axis)
    if (axis >= max_axes - ndim) site.at[axis] = at[1 + axis - (max_axes - ndim)];
  return site;
}

DEV_FN void store_site(const Site& site, int32_t* indices, int64_t row, int ndim) {
  int32_t* at = indices + row * (ndim + 1);
  at[0] = static_cast<int32_t>(site.batch);
  DEV_UNROLL
  for (int axis = 0; axis < max_axes; ++axis)
    if (axis >= max_axes - ndim) at[1 + axis - (max_axes - ndim)] = static_cast<int32_t>(site.at[axis]);
}

struct SiteMap {
  int64_t shape[max_axes] = {1, 1, 1, 1};
  int32_t* grid_out = nullptr;         // dense: the row of each cell; null where `keys` is used
  unsigned long long* keys = nullptr;  // hash: row-major index of each slot's site, or no_key
  int32_t* rows = nullptr;             // hash: the row of each slot
  uint64_t hash_mask = 0;              // hash: slots - 1, a power of two less one
};

DEV_WRAPS HD uint64_t first_slot(int64_t index,
                                 uint64_t mask) {  // Fibonacci hashing: the top bits know all of the index
  return static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15ull >> (64 - dev::popcount(mask));
}

// Slots for `sites` sites: a power of two, at most half full, so that probes stay short.
HD int64_t slots_for(int64_t sites) {
  int64_t slots = 64;
  while (slots < 2 * sites) slots *= 2;
  return slots;
}

// The slot that holds the key after this call, or -1 if the table is full. *fresh says if it came new.
DEV_FN int64_t take_slot(const SiteMap& map, int64_t index, bool* fresh) {
  const auto key = static_cast<unsigned long long>(index);
  uint64_t slot = first_slot(index, map.hash_mask);
  for (uint64_t probe = 0; probe <= map.hash_mask; ++probe) {
    const unsigned long long seen = atomicCAS(map.keys + slot, no_key, key);
    *fresh = seen == no_key;
    if (seen == no_key || seen == key) return static_cast<int64_t>(slot);
    slot = (slot + 1) & map.hash_mask;
  }
  return -1;
}

// The slot of a key in a table that is no longer written, or -1.
DEV_FN int64_t find_slot(const SiteMap& map, int64_t index) {
  const auto key = static_cast<unsigned long long>(index);
  uint64_t slot = first_slot(index, map.hash_mask);
  for (uint64_t probe = 0; probe <= map.hash_mask; ++probe) {
    const unsigned long long seen = map.keys[slot];
    if (seen == key) return static_cast<int64_t>(slot);
    if (seen == no_key) return -1;
    slot = (slot + 1) & map.hash_mask;
  }
  return -1;
}

// The place that holds the row of a site, or null if the table is full.
DEV_FN int32_t* place_of(const SiteMap& map, int64_t index) {
  if (map.grid_out) return map.grid_out + index;
  bool fresh;
  const int64_t slot = take_slot(map, index, &fresh);
  return slot < 0 ? nullptr : map.rows + slot;
}

// The row of a site inside the grid, or -1. For maps that are no longer written.
DEV_FN int32_t find_row(const SiteMap& map, const Site& site) {
  const int64_t index = row_major_index(site, map.shape);
  int32_t row = no_row;
  if (map.grid_out) {
    row = map.grid_out[index];
  } else {
    const int64_t slot = find_slot(map, index);
    if (slot >= 0) row = map.rows[slot];
  }
  return row == no_row ? -1 : row;
}

// The output site that the site of an input row reaches through an offset. False if there is none.
DEV_FN bool target_site(const Geometry& g, bool transposed, const Site& in, const int64_t offset[max_axes],
                        Site* out) {
  out->batch = in.batch;
  bool fits = true;
  for (int axis = 0; axis < max_axes; ++axis) {
    out->at[axis] = target_coordinate(g, transposed, axis, in.at[axis], offset[axis]);
    fits = fits && out->at[axis] >= 0;
  }
  return fits;
}

}  // namespace spconv_lite::cuda
