// The rulebook (kernel map) of one sparse convolution on CUDA: pairs laid out as spconv does.
//
//   indice_pairs  int32 (2, K, rows): [0, k, p] the input row, [1, k, p] the output row of pair p of kernel
//                 offset k; unused places are -1. rows is the number of input rows.
//   indice_num    int32 (K,): how many pairs each offset has
//
// The set of pairs of an offset is fixed; their order within it is not: places are taken by atomics. The
// output sites are in row-major order, as on the CPU.
//
// All pointers are device memory, except where said. Work is queued on `stream` (a cudaStream_t; null is the
// default stream) of the current device and nothing waits, except find_conv_sites. Functions throw
// native::ValueError for sizes and std::runtime_error for CUDA's errors.
//
// Compiled and simulated, never run.
#pragma once

#include <core/rulebook.h>

namespace spconv_lite::cuda {

// What was wrong with the sites, in device memory. The lists are made all the same and stay in bounds: rows
// outside the grid are left out, of equal sites the least row answers for all.
struct Failures {
  int32_t outside_row;    // the least row outside the grid; `none` without one
  int32_t duplicate_row;  // the least row whose site an earlier row has; `none` without one
  int32_t unplaced;       // sites that found no slot in the hash table: 0 with a table of workspace_bytes

  static constexpr int32_t none = 0x7f7f7f7f;
};

// The largest number of rows, because of the value that marks an empty place.
inline constexpr int64_t most_rows = Failures::none - 1;

// Bytes of scratch memory, aligned to 256, for the submanifold rulebook of `rows` input rows.
int64_t subm_workspace_bytes(const Geometry& geometry, int64_t rows);

// Writes indice_pairs and indice_num of a submanifold convolution.
void subm_indice_pairs(const int32_t* indices, int64_t rows, const Geometry& geometry, int32_t* indice_pairs,
                       int32_t* indice_num, Failures* failures, void* workspace, void* stream);

// Bytes of scratch memory for find_conv_sites; the same memory goes on to write_conv_indice_pairs.
int64_t conv_workspace_bytes(const Geometry& geometry, int64_t rows, bool transposed);

// Finds the output sites and returns their number. Waits for the stream, to learn it.
int64_t find_conv_sites(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                        Failures* failures, void* workspace, void* stream);

// Bytes of scratch memory for the sort of `out_rows` output sites.
int64_t sort_workspace_bytes(int64_t out_rows);

// Writes out_indices int32 (out_rows, 1 + ndim) in row-major order, indice_pairs and indice_num. `workspace`
// as find_conv_sites left it.
void write_conv_indice_pairs(const int32_t* indices, int64_t rows, const Geometry& geometry, bool transposed,
                             int64_t out_rows, int32_t* out_indices, int32_t* indice_pairs,
                             int32_t* indice_num, void* workspace, void* sort_workspace, void* stream);

}  // namespace spconv_lite::cuda
