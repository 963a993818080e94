// Kernels of the rulebook. The submanifold pair follows spconv: prepare_subm_grid writes coordinate to row,
// get_subm_indice_pairs looks every neighbour up. Strided convolutions insert all candidate output sites
// into a hash table, which keeps each once; they are sorted (radix_sort.cuh) and numbered.
#pragma once

#include <cuda/site_map.cuh>

namespace spconv_lite::cuda {

inline constexpr int threads_per_block = 256;

// ---- submanifold ----

// map[site of row i] = i. Of equal sites the least row stays, whatever the order of the threads.
DEV_KERNEL(threads_per_block)
prepare_subm_grid(const int32_t* indices, int64_t rows, Geometry g, SiteMap map, Report* report) {
  for (int64_t i = dev::thread_index(); i < rows; i += dev::thread_count()) {
    const int32_t row = static_cast<int32_t>(i);
    const Site site = load_site(indices, i, g.ndim);
    if (!inside(site, g.batch_size, g.in_shape)) {
      atomicMin(&report->outside_row, row);
      continue;
    }
    int32_t* const place = place_of(map, row_major_index(site, map.shape));
    if (!place) {
      atomicAdd(&report->unplaced, 1);
      continue;
    }
    const int32_t before = atomicMin(place, row);
    // Whoever comes second of the two least rows reports the larger: always the second least row.
    if (before != no_row) atomicMin(&report->duplicate_row, before > row ? before : row);
  }
}

// The lists of pairs that are being written.
struct PairLists {
  int32_t* indice_pairs;  // (2, K, rows)
  int32_t* indice_num;    // (K,)
  int64_t volume, rows;
};

// Appends the pair (in, out) of every lane where `found` to the list of offset k. All lanes of the warp call
// it together with the same k: one atomic for the warp.
DEV_FN void append_pair(const PairLists& lists, int64_t k, bool found, int32_t in, int32_t out) {
  const unsigned finders = __ballot_sync(dev::all_lanes, found);
  if (finders == 0) return;
  const int leader = dev::lowest_bit(finders), lane = dev::lane();
  int32_t first = 0;
  if (lane == leader) first = atomicAdd(lists.indice_num + k, dev::popcount(finders));
  first = __shfl_sync(dev::all_lanes, first, leader);
  if (!found) return;
  const int64_t place = k * lists.rows + first + dev::popcount(finders & ((1u << lane) - 1u));
  lists.indice_pairs[place] = in;
  lists.indice_pairs[lists.volume * lists.rows + place] = out;
}

// For every row and kernel offset: the row of the neighbour, if it is there. blockIdx.y strides over the
// offsets, so that a block works on one at a time.
DEV_KERNEL(threads_per_block)
get_subm_indice_pairs(const int32_t* indices, int64_t rows, Geometry g, SiteMap map, PairLists lists) {
  for (int64_t k = blockIdx.y; k < lists.volume; k += gridDim.y) {
    int64_t offset[max_axes];
    kernel_offset(g, k, offset);
    for (int64_t i = dev::thread_index();; i += dev::thread_count()) {
      if (i - dev::lane() >= rows) break;  // whole warps leave together
      int32_t in = -1;
      if (i < rows) {
        const Site out = load_site(indices, i, g.ndim);
        Site neighbour;
        if (inside(out, g.batch_size, g.out_shape) && source_site(g, out, offset, &neighbour))
          in = find_row(map, neighbour);
      }
      append_pair(lists, k, in >= 0, in, static_cast<int32_t>(i));
    }
  }
}

// ---- strided and transposed ----

// Puts every output site once into the map and the list `found`, in no particular order, and counts them in
// the report. Input sites outside the grid are left out: prepare_subm_grid has reported them.
DEV_KERNEL(threads_per_block)
find_out_sites(const int32_t* indices, int64_t rows, Geometry g, bool transposed, SiteMap out_map,
               unsigned long long* found, Report* report) {
  const int64_t volume = g.volume();
  for (int64_t k = blockIdx.y; k < volume; k += gridDim.y) {
    int64_t offset[max_axes];
    kernel_offset(g, k, offset);
    for (int64_t i = dev::thread_index(); i < rows; i += dev::thread_count()) {
      const Site in = load_site(indices, i, g.ndim);
      if (!inside(in, g.batch_size, g.in_shape)) continue;
      Site out;
      if (!target_site(g, transposed, in, offset, &out)) continue;
      const int64_t index = row_major_index(out, out_map.shape);
      bool fresh;
      if (take_slot(out_map, index, &fresh) < 0)
        atomicAdd(&report->unplaced, 1);
      else if (fresh)
        found[atomicAdd(&report->out_rows, 1)] = static_cast<unsigned long long>(index);
    }
  }
}

// Row r is the site with the r-th least key: writes its indices, and the row into the map.
DEV_KERNEL(threads_per_block)
number_out_sites(const unsigned long long* sorted, int64_t out_rows, int ndim, SiteMap out_map,
                 int32_t* out_indices) {
  for (int64_t r = dev::thread_index(); r < out_rows; r += dev::thread_count()) {
    const auto index = static_cast<int64_t>(sorted[r]);
    store_site(site_at(index, out_map.shape), out_indices, r, ndim);
    out_map.rows[find_slot(out_map, index)] = static_cast<int32_t>(r);
  }
}

// For every input row and kernel offset: the output row that it reaches, if there is one.
DEV_KERNEL(threads_per_block)
get_conv_indice_pairs(const int32_t* indices, int64_t rows, Geometry g, bool transposed, SiteMap out_map,
                      PairLists lists) {
  for (int64_t k = blockIdx.y; k < lists.volume; k += gridDim.y) {
    int64_t offset[max_axes];
    kernel_offset(g, k, offset);
    for (int64_t i = dev::thread_index();; i += dev::thread_count()) {
      if (i - dev::lane() >= rows) break;
      int32_t out_row = -1;
      if (i < rows) {
        const Site in = load_site(indices, i, g.ndim);
        Site out;
        if (inside(in, g.batch_size, g.in_shape) && target_site(g, transposed, in, offset, &out))
          out_row = find_row(out_map, out);
      }
      append_pair(lists, k, out_row >= 0, static_cast<int32_t>(i), out_row);
    }
  }
}

}  // namespace spconv_lite::cuda
