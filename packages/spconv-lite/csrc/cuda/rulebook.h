// The rulebook (kernel map) of one sparse convolution on CUDA, in two forms.
//
// Pairs, laid out as spconv does:
//   indice_pairs  int32 (2, K, rows): [0, k, p] the input row, [1, k, p] the output row of pair p of kernel
//                 offset k; unused places are -1. rows is the number of input rows.
//   indice_num    int32 (K,): how many pairs each offset has
//
// The set of pairs of an offset is fixed; their order within it is not: places are taken by atomics. The
// output sites are in row-major order, as on the CPU.
//
// Neighbour tables int32 (K, rows), which the convolution of conv.h reads: [k, i] is the row that row i reads
// through kernel offset k, or -1. They are the same in every run.
//
// All pointers are device memory, except where said. Work is queued on `stream` (a cudaStream_t; null is the
// default stream) of the current device and nothing waits, except find_conv_sites and read_report. Functions
// throw native::ValueError for sizes and std::runtime_error for CUDA's errors.
//
// Compiled and simulated, never run.
#pragma once

#include <core/rulebook.h>

namespace spconv_lite::cuda {

// What the kernels say of the sites, in device memory. The lists are made all the same and stay in bounds:
// rows outside the grid are left out, of equal sites the least row answers for all.
struct Report {
  int32_t outside_row;    // the least row outside the grid; `none` without one
  int32_t duplicate_row;  // the least row whose site an earlier row has; `none` without one
  int32_t unplaced;       // sites that found no slot in the hash table: 0 with a table of workspace_bytes
  int32_t out_rows;       // output sites, by find_conv_sites

  static constexpr int32_t none = 0x7f7f7f7f;
};

// The largest number of rows, because of the value that marks an empty place.
inline constexpr int64_t most_rows = Report::none - 1;

// Copies a report to the host. Waits for the stream.
Report read_report(const Report* report, void* stream);

// Bytes of scratch memory, aligned to 256, for the submanifold rulebook of `rows` input rows.
int64_t subm_workspace_bytes(const Geometry& geometry, int64_t rows);

// Writes indice_pairs and indice_num of a submanifold convolution.
void subm_indice_pairs(const int32_t* indices, int64_t rows, const Geometry& geometry, int32_t* indice_pairs,
                       int32_t* indice_num, Report* report, void* workspace, void* stream);

// Bytes of scratch memory for find_conv_sites; the same memory goes on to write_conv_indice_pairs.
int64_t conv_workspace_bytes(const Geometry& geometry, int64_t rows, bool transposed);

// Finds the output sites and returns the report, their number in it. Waits for the stream, to learn it.
Report find_conv_sites(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                       Report* report, void* workspace, void* stream);

// Bytes of scratch memory for the sort of `out_rows` output sites.
int64_t sort_workspace_bytes(int64_t out_rows);

// Writes out_indices int32 (out_rows, 1 + ndim) in row-major order, indice_pairs and indice_num. `workspace`
// as find_conv_sites left it.
void write_conv_indice_pairs(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                             int64_t out_rows, int32_t* out_indices, int32_t* indice_pairs,
                             int32_t* indice_num, void* workspace, void* sort_workspace, void* stream);

// ---- neighbour tables ----

// The table of a submanifold convolution (K, rows). workspace: subm_workspace_bytes.
void subm_neighbours(const int32_t* indices, int64_t rows, const Geometry& geometry, int32_t* table,
                     Report* report, void* workspace, void* stream);

// The tables of a strided or transposed convolution after find_conv_sites, in place of indice_pairs:
//   targets (K, rows)      the output row that each input row reaches, which the input's gradient reads
//   sources (K, out_rows)  the input row that each output row reads, which the forward pass reads
// Also writes out_indices. The input sites must be unique. Workspaces as for write_conv_indice_pairs.
void conv_neighbours(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                     int64_t out_rows, int32_t* out_indices, int32_t* targets, int32_t* sources,
                     void* workspace, void* sort_workspace, void* stream);

// The same pairs seen from the rows that are read: other (K, other_rows) from table (K, rows).
void turn_neighbours(const int32_t* table, int64_t rows, int64_t volume, int64_t other_rows, int32_t* other,
                     void* stream);

inline constexpr int tile_rows = 64;  // rows of `order` that share one set of offsets

HD int64_t mask_words(int64_t volume) { return (volume + 31) / 32; }
HD int64_t mask_tiles(int64_t rows) { return rows / tile_rows + 2; }  // one or two of them have no rows

// Rows of a convolution and what each reads. Made by order_rows; `table` by one of the functions above.
struct NeighbourTable {
  const int32_t* table;   // (K, rows): the row that row i reads through offset k, or -1
  const int32_t* order;   // (rows,): rows in the order of their sets of offsets
  const uint32_t* masks;  // (mask_tiles(rows), mask_words(K)): offsets that a tile has
  int64_t rows;
  int64_t volume;
};

int64_t mask_count(int64_t rows, int64_t volume);  // uint32 of NeighbourTable::masks
int64_t order_workspace_bytes(int64_t rows);

// Writes `order` (rows,) and `masks` (mask_count) of a table.
void order_rows(const int32_t* table, int64_t rows, int64_t volume, int32_t* order, uint32_t* masks,
                void* workspace, void* stream);

}  // namespace spconv_lite::cuda
