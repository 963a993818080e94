// The neighbour table, the form of the rulebook that the CUDA convolution reads: for every row and kernel
// offset the row that it reads, or -1. Rows are then ordered by the set of offsets they have, so that a tile
// of neighbouring rows shares its offsets and skips the others (as spconv 2 and TorchSparse++ do).
// Everything here is the same in every run: no place is taken by an atomic.
#pragma once

#include <cuda/site_map.cuh>

namespace spconv_lite::cuda {

inline constexpr int neighbour_threads = 256;

// table[k, i] = the input row that output site i reads through offset k. in_map holds the input sites.
DEV_KERNEL(neighbour_threads)
find_sources(const int32_t* out_indices, int64_t out_rows, Geometry g, SiteMap in_map, int32_t* table) {
  const int64_t volume = g.volume();
  for (int64_t k = blockIdx.y; k < volume; k += gridDim.y) {
    int64_t offset[max_axes];
    kernel_offset(g, k, offset);
    for (int64_t i = dev::thread_index(); i < out_rows; i += dev::thread_count()) {
      const Site out = load_site(out_indices, i, g.ndim);
      Site in;
      const bool reads = inside(out, g.batch_size, g.out_shape) && source_site(g, out, offset, &in);
      table[k * out_rows + i] = reads ? find_row(in_map, in) : -1;
    }
  }
}

// table[k, i] = the output row that input site i reaches through offset k. out_map holds the output sites.
DEV_KERNEL(neighbour_threads)
find_targets(const int32_t* in_indices, int64_t in_rows, Geometry g, bool transposed, SiteMap out_map,
             int32_t* table) {
  const int64_t volume = g.volume();
  for (int64_t k = blockIdx.y; k < volume; k += gridDim.y) {
    int64_t offset[max_axes];
    kernel_offset(g, k, offset);
    for (int64_t i = dev::thread_index(); i < in_rows; i += dev::thread_count()) {
      const Site in = load_site(in_indices, i, g.ndim);
      Site out;
      const bool reaches =
          inside(in, g.batch_size, g.in_shape) && target_site(g, transposed, in, offset, &out);
      table[k * in_rows + i] = reaches ? find_row(out_map, out) : -1;
    }
  }
}

// other[k, table[k, i]] = i: the same pairs seen from the rows that are read. `other` is -1 before. Each
// place is written at most once, because sites are unique.
DEV_KERNEL(neighbour_threads)
turn_table(const int32_t* table, int64_t rows, int64_t volume, int64_t other_rows, int32_t* other) {
  for (int64_t k = blockIdx.y; k < volume; k += gridDim.y)
    for (int64_t i = dev::thread_index(); i < rows; i += dev::thread_count()) {
      const int32_t row = table[k * rows + i];
      if (row >= 0) other[k * other_rows + row] = static_cast<int32_t>(i);
    }
}

// keys[i] = the offsets 0..63 that row i has, as bits; order[i] = i. To be sorted by key.
DEV_KERNEL(neighbour_threads)
row_masks(const int32_t* table, int64_t rows, int64_t volume, unsigned long long* keys, int32_t* order) {
  for (int64_t i = dev::thread_index(); i < rows; i += dev::thread_count()) {
    unsigned long long mask = 0;
    for (int64_t k = 0; k < volume && k < 64; ++k)
      if (table[k * rows + i] >= 0) mask |= 1ull << k;
    keys[i] = mask;
    order[i] = static_cast<int32_t>(i);
  }
}

// masks[tile, word]: the offsets that any row of the tile has, tiles of tile_rows places of `order`. A warp a
// tile.
DEV_KERNEL(neighbour_threads)
tile_masks(const int32_t* table, const int32_t* order, int64_t rows, int64_t volume, uint32_t* masks) {
  const int64_t tiles = mask_tiles(rows), words = mask_words(volume);
  const int64_t warps = dev::thread_count() / 32;
  for (int64_t tile = dev::thread_index() / 32; tile < tiles; tile += warps) {
    const int64_t first = tile * tile_rows + dev::lane(), second = first + 32;
    const int64_t row = first < rows ? order[first] : -1, other = second < rows ? order[second] : -1;
    uint32_t word = 0;
    for (int64_t k = 0; k < volume; ++k) {
      const bool has =
          (row >= 0 && table[k * rows + row] >= 0) || (other >= 0 && table[k * rows + other] >= 0);
      if (__any_sync(dev::all_lanes, has)) word |= 1u << (k % 32);
      if (k % 32 == 31 || k + 1 == volume) {
        if (dev::lane() == 0) masks[tile * words + k / 32] = word;
        word = 0;
      }
    }
  }
}

}  // namespace spconv_lite::cuda
