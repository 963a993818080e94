// Launches of the rulebook kernels. Compiled and simulated, never run.
#include <algorithm>
#include <string>
#include <utility>

#include <cuda/workspace.h>
#include <native/check.h>
#include <cuda/neighbours.cuh>
#include <cuda/radix_sort.cuh>
#include <cuda/rulebook.cuh>

namespace spconv_lite::cuda {

namespace {

int64_t cells(int64_t batch_size, const int64_t* shape) {
  int64_t product = batch_size;
  bool fits = true;
  for (int axis = 0; axis < max_axes; ++axis)
    fits = fits && !__builtin_mul_overflow(product, shape[axis], &product);
  if (!fits)
    throw native::ValueError("get_indice_pairs: the grid has more than 2^63 - 1 cells; use larger voxels");
  return product;
}

void check_rows(int64_t rows, const char* what) {
  if (rows > most_rows)
    throw native::ValueError("get_indice_pairs: " + std::to_string(rows) + " " + what +
                             " sites are more than " + std::to_string(most_rows) +
                             " on CUDA; split the batch");
}

// Enough blocks to fill the device; grid-stride loops do the rest. `volume` offsets share them by blockIdx.y.
dev::Dim grid_for(int64_t rows, int64_t volume = 1) {
  const int64_t blocks = (rows + threads_per_block - 1) / threads_per_block;
  return {dev::grid_blocks(blocks, 16), std::min<int64_t>(volume, 65535)};
}

// An upper bound of the output sites that one input site reaches: along an axis, offsets that hit a
// multiple of the stride lie stride / gcd(stride, dilation) apart.
int64_t most_targets(const Geometry& g, bool transposed) {
  int64_t product = 1;
  for (int axis = 0; axis < max_axes; ++axis) {
    int64_t a = g.stride[axis], b = g.dilation[axis];
    while (b != 0) a = std::exchange(b, a % b);
    const int64_t apart = transposed ? 1 : g.stride[axis] / a;
    product *= (g.kernel[axis] + apart - 1) / apart;
  }
  return product;
}

struct SubmWorkspace {
  SiteMap map;
  int64_t dense_cells = 0, slots = 0, bytes = 0;

  SubmWorkspace(const Geometry& g, int64_t rows, void* memory) {
    Workspace workspace(memory);
    std::copy_n(g.in_shape, max_axes, map.shape);
    const int64_t all = cells(g.batch_size, g.in_shape);
    if (all <= most_dense_cells) {
      dense_cells = all;
      map.grid_out = workspace.array<int32_t>(all);
    } else {
      slots = slots_for(rows);
      map.keys = workspace.array<unsigned long long>(slots);
      map.rows = workspace.array<int32_t>(slots);
      map.hash_mask = static_cast<uint64_t>(slots - 1);
    }
    bytes = workspace.bytes();
  }
};

struct ConvWorkspace {
  SubmWorkspace in;  // of the input sites, to find duplicates
  SiteMap map;       // always hashed: the table also keeps each output site once
  unsigned long long* found;
  int64_t slots, bytes;

  ConvWorkspace(const Geometry& g, int64_t rows, bool transposed, void* memory) : in(g, rows, memory) {
    Workspace workspace(memory ? static_cast<char*>(memory) + in.bytes : nullptr);
    std::copy_n(g.out_shape, max_axes, map.shape);
    const int64_t all = cells(g.batch_size, g.out_shape);
    const int64_t most = std::min(all, rows * most_targets(g, transposed));
    slots = slots_for(most);
    map.keys = workspace.array<unsigned long long>(slots);
    map.rows = workspace.array<int32_t>(slots);
    map.hash_mask = static_cast<uint64_t>(slots - 1);
    found = workspace.array<unsigned long long>(most);
    bytes = in.bytes + workspace.bytes();
  }
};

struct SortWorkspace {
  unsigned long long *keys, *other_keys;
  int32_t* scratch;
  int64_t bytes;

  SortWorkspace(int64_t out_rows, void* memory) {
    Workspace workspace(memory);
    keys = workspace.array<unsigned long long>(out_rows);
    other_keys = workspace.array<unsigned long long>(out_rows);
    scratch = workspace.array<int32_t>(sort_scratch(out_rows));
    bytes = workspace.bytes();
  }
};

struct OrderWorkspace {
  unsigned long long *keys, *other_keys;
  int32_t *other_order, *scratch;
  int64_t bytes;

  OrderWorkspace(int64_t rows, void* memory) {
    Workspace workspace(memory);
    keys = workspace.array<unsigned long long>(rows);
    other_keys = workspace.array<unsigned long long>(rows);
    other_order = workspace.array<int32_t>(rows);
    scratch = workspace.array<int32_t>(sort_scratch(rows));
    bytes = workspace.bytes();
  }
};

void clear_report(Report* report, dev::Stream stream) {
  dev::fill_bytes(report, no_row_byte, sizeof(Report), stream);
  dev::fill_bytes(&report->unplaced, 0, sizeof(report->unplaced) + sizeof(report->out_rows), stream);
}

void clear_map(const SiteMap& map, int64_t dense_cells, int64_t slots, dev::Stream stream) {
  dev::fill_bytes(map.grid_out, no_row_byte, static_cast<size_t>(dense_cells) * sizeof(int32_t), stream);
  dev::fill_bytes(map.keys, 0xff, static_cast<size_t>(slots) * sizeof(*map.keys), stream);
  dev::fill_bytes(map.rows, no_row_byte, static_cast<size_t>(slots) * sizeof(int32_t), stream);
}

// Fills the map of the input sites and reports those that are outside the grid or come twice.
void place_sites(const int32_t* indices, int64_t rows, const Geometry& g, const SubmWorkspace& w,
                 Report* report, dev::Stream stream) {
  clear_map(w.map, w.dense_cells, w.slots, stream);
  dev::launch(prepare_subm_grid, grid_for(rows), threads_per_block, 0, stream, indices, rows, g, w.map,
              report);
}

// Numbers the output sites that find_conv_sites has found and writes their indices.
void number_sites(const ConvWorkspace& w, const Geometry& g, int64_t out_rows, int32_t* out_indices,
                  void* sort_workspace, dev::Stream stream) {
  const SortWorkspace s(out_rows, sort_workspace);
  int bits = 0;  // of the largest key
  while (bits < 63 && (cells(g.batch_size, g.out_shape) - 1) >> bits != 0) ++bits;
  dev::copy_on_device(s.keys, w.found, static_cast<size_t>(out_rows) * sizeof(*w.found), stream);
  unsigned long long* const keys[2] = {s.keys, s.other_keys};
  const int sorted = radix_sort(keys, nullptr, out_rows, bits, s.scratch, stream);
  dev::launch(number_out_sites, grid_for(out_rows), threads_per_block, 0, stream, keys[sorted], out_rows,
              g.ndim, w.map, out_indices);
}

PairLists cleared_lists(int32_t* indice_pairs, int32_t* indice_num, int64_t volume, int64_t rows,
                        dev::Stream stream) {
  dev::fill_bytes(indice_pairs, 0xff, static_cast<size_t>(2 * volume * rows) * sizeof(int32_t), stream);
  dev::fill_bytes(indice_num, 0, static_cast<size_t>(volume) * sizeof(int32_t), stream);
  return {indice_pairs, indice_num, volume, rows};
}

}  // namespace

Report read_report(const Report* report, void* stream) {
  Report host;
  dev::read_back(&host, report, sizeof(host), dev::stream_from(stream));
  return host;
}

int64_t subm_workspace_bytes(const Geometry& geometry, int64_t rows) {
  check_rows(rows, "input");
  return SubmWorkspace(geometry, rows, nullptr).bytes;
}

void subm_indice_pairs(const int32_t* indices, int64_t rows, const Geometry& geometry, int32_t* indice_pairs,
                       int32_t* indice_num, Report* report, void* workspace, void* stream_handle) {
  check_rows(rows, "input");
  const dev::Stream stream = dev::stream_from(stream_handle);
  const SubmWorkspace w(geometry, rows, workspace);
  clear_report(report, stream);
  const PairLists lists = cleared_lists(indice_pairs, indice_num, geometry.volume(), rows, stream);
  if (rows == 0) return;
  place_sites(indices, rows, geometry, w, report, stream);
  dev::launch(get_subm_indice_pairs, grid_for(rows, lists.volume), threads_per_block, 0, stream, indices,
              rows, geometry, w.map, lists);
}

int64_t conv_workspace_bytes(const Geometry& geometry, int64_t rows, bool transposed) {
  check_rows(rows, "input");
  return ConvWorkspace(geometry, rows, transposed, nullptr).bytes;
}

Report find_conv_sites(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                       Report* report, void* workspace, void* stream_handle) {
  check_rows(rows, "input");
  const dev::Stream stream = dev::stream_from(stream_handle);
  const ConvWorkspace w(geometry, rows, transposed, workspace);
  clear_report(report, stream);
  if (rows == 0) return {Report::none, Report::none, 0, 0};
  place_sites(indices, rows, geometry, w.in, report, stream);
  clear_map(w.map, 0, w.slots, stream);
  dev::launch(find_out_sites, grid_for(rows, geometry.volume()), threads_per_block, 0, stream, indices, rows,
              geometry, transposed, w.map, w.found, report);
  const Report found = read_report(report, stream_handle);
  check_rows(found.out_rows, "output");
  return found;
}

int64_t sort_workspace_bytes(int64_t out_rows) { return SortWorkspace(out_rows, nullptr).bytes; }

void write_conv_indice_pairs(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                             int64_t out_rows, int32_t* out_indices, int32_t* indice_pairs,
                             int32_t* indice_num, void* workspace, void* sort_workspace,
                             void* stream_handle) {
  const dev::Stream stream = dev::stream_from(stream_handle);
  const PairLists lists = cleared_lists(indice_pairs, indice_num, geometry.volume(), rows, stream);
  if (rows == 0 || out_rows == 0) return;
  const ConvWorkspace w(geometry, rows, transposed, workspace);
  number_sites(w, geometry, out_rows, out_indices, sort_workspace, stream);
  dev::launch(get_conv_indice_pairs, grid_for(rows, lists.volume), threads_per_block, 0, stream, indices,
              rows, geometry, transposed, w.map, lists);
}

void subm_neighbours(const int32_t* indices, int64_t rows, const Geometry& geometry, int32_t* table,
                     Report* report, void* workspace, void* stream_handle) {
  check_rows(rows, "input");
  const dev::Stream stream = dev::stream_from(stream_handle);
  const SubmWorkspace w(geometry, rows, workspace);
  clear_report(report, stream);
  if (rows == 0) return;
  place_sites(indices, rows, geometry, w, report, stream);
  dev::launch(find_sources, grid_for(rows, geometry.volume()), neighbour_threads, 0, stream, indices, rows,
              geometry, w.map, table);
}

void conv_neighbours(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                     int64_t out_rows, int32_t* out_indices, int32_t* targets, int32_t* sources,
                     void* workspace, void* sort_workspace, void* stream_handle) {
  const dev::Stream stream = dev::stream_from(stream_handle);
  const int64_t volume = geometry.volume();
  if (rows == 0 || out_rows == 0) {
    dev::fill_bytes(targets, 0xff, static_cast<size_t>(volume * rows) * sizeof(int32_t), stream);
    return;
  }
  const ConvWorkspace w(geometry, rows, transposed, workspace);
  number_sites(w, geometry, out_rows, out_indices, sort_workspace, stream);
  dev::launch(find_targets, grid_for(rows, volume), neighbour_threads, 0, stream, indices, rows, geometry,
              transposed, w.map, targets);
  turn_neighbours(targets, rows, volume, out_rows, sources, stream_handle);
}

void turn_neighbours(const int32_t* table, int64_t rows, int64_t volume, int64_t other_rows, int32_t* other,
                     void* stream_handle) {
  const dev::Stream stream = dev::stream_from(stream_handle);
  dev::fill_bytes(other, 0xff, static_cast<size_t>(volume * other_rows) * sizeof(int32_t), stream);
  if (rows == 0 || other_rows == 0) return;
  dev::launch(turn_table, grid_for(rows, volume), neighbour_threads, 0, stream, table, rows, volume,
              other_rows, other);
}

int64_t mask_count(int64_t rows, int64_t volume) { return mask_tiles(rows) * mask_words(volume); }

int64_t order_workspace_bytes(int64_t rows) { return OrderWorkspace(rows, nullptr).bytes; }

void order_rows(const int32_t* table, int64_t rows, int64_t volume, int32_t* order, uint32_t* masks,
                void* workspace, void* stream_handle) {
  const dev::Stream stream = dev::stream_from(stream_handle);
  if (rows == 0)
    return dev::fill_bytes(masks, 0, static_cast<size_t>(mask_count(rows, volume)) * sizeof(*masks), stream);
  const OrderWorkspace w(rows, workspace);
  // The sort goes back and forth: it begins where it has to, to end in `order`.
  const int bits = static_cast<int>(std::min<int64_t>(volume, 64));
  const bool odd = (bits + digit_bits - 1) / digit_bits % 2 != 0;
  unsigned long long* const keys[2] = {w.keys, w.other_keys};
  int32_t* const values[2] = {odd ? w.other_order : order, odd ? order : w.other_order};
  dev::launch(row_masks, grid_for(rows), neighbour_threads, 0, stream, table, rows, volume, w.keys,
              values[0]);
  radix_sort(keys, values, rows, bits, w.scratch, stream);
  dev::launch(tile_masks, grid_for(rows), neighbour_threads, 0, stream, table, order, rows, volume, masks);
}

}  // namespace spconv_lite::cuda
