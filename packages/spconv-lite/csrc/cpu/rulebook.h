// The rulebook (kernel map) of one sparse convolution on the CPU: which pairs (input row, output row)
// each kernel offset joins.
//
//   Rulebook rulebook(indices, rows, geometry, Kind::submanifold, threads);
//   allocate rulebook.out_rows(), rulebook.pairs(), rulebook.block_offsets(); then
//   rulebook.write_compact(pair_in, pair_out, block_offset);
//
// The compact form, used inside: pairs sorted by block of 256 output rows, then by kernel offset.
// Pair p of block b and offset k lies in [block_offset[b * K + k], block_offset[b * K + k + 1]);
// pair_in[p] is the input row and 256 * b + pair_out[p] the output row: 5 bytes a pair.
// Everything is deterministic and independent of `threads`.
#pragma once

#include <vector>

#include <core/rulebook.h>
#include <cpu/pairs.h>
#include <cpu/sites.h>

namespace spconv_lite {

class BlockPairs;

enum class Kind { submanifold, convolution, transposed };

// The number of cells batch_size * shape[0] * ... ; throws native::ValueError when it passes 2^63 - 1.
int64_t checked_cells(int64_t batch_size, const int64_t* shape, const char* what);

class Rulebook {
 public:
  // indices: int32 (rows, 1 + ndim), checked here: inside the grid and unique, else native::ValueError.
  // Output sites of the other kinds are in row-major order. Throws native::ValueError when a count
  // passes 2^31 - 1.
  // The indices must outlive the rulebook.
  Rulebook(const int32_t* indices, int64_t rows, const Geometry& geometry, Kind kind, int threads);

  int64_t in_rows() const { return in_rows_; }
  int64_t out_rows() const { return out_rows_; }
  int64_t pairs() const { return pairs_; }
  int64_t block_offsets() const { return blocks_ * geometry_.volume() + 1; }

  void write_out_indices(int32_t* out_indices) const;  // (out_rows, 1 + ndim)
  void write_compact(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const;
  // As spconv lays it out: indice_pairs (2, K, in_rows), unused places -1; indice_num (K,).
  void write_padded(int32_t* indice_pairs, int32_t* indice_num) const;

 private:
  // The input rows of every output row, as find_sources gives them, by chunks of rows_per_chunk
  // positions; position i is output row i, or the row of rank i where position_of_row_ says so.
  struct Sources {
    std::vector<std::vector<int32_t>> list;
    Scratch<uint64_t> entries;
  };
  void find_pairs(const SiteSet& sites, const Geometry& g, const int32_t* out_indices, int64_t rows,
                  bool by_rank);
  int64_t position(int64_t row) const;
  const uint64_t* entry(int64_t position) const;
  int64_t source_count(int64_t row) const;
  void prefetch(int64_t row) const;
  void add_row(int64_t row, BlockPairs& pairs) const;
  void read_through_output(const int32_t* indices, const SiteSet& out);

  Geometry geometry_;
  int threads_;
  int64_t in_rows_ = 0, out_rows_ = 0, pairs_ = 0, blocks_ = 0;
  std::vector<Group> groups_;
  std::vector<int32_t> out_indices_;  // empty for a submanifold: the caller's
  const int32_t* in_indices_;
  Sources sources_;
  std::vector<int32_t> position_of_row_;
  std::vector<int64_t> block_start_;  // the first pair of each block
  // a transposed convolution is made in the compact form at once
  std::vector<int32_t> pair_in_;
  std::vector<uint8_t> pair_out_;
  std::vector<int64_t> block_offset_;
};

// The same pairs seen from the input rows: sorted by block of 256 input rows, then by offset.
// block_offset has ceil(out_rows / 256) * volume + 1 entries, block_offset_t as many for in_rows.
// Throws native::ValueError when a row is out of range.
void transpose_rulebook(const int32_t* pair_in, const uint8_t* pair_out, const int64_t* block_offset,
                        int64_t pairs, int64_t in_rows, int64_t out_rows, int64_t volume, int threads,
                        int32_t* pair_in_t, uint8_t* pair_out_t, int64_t* block_offset_t);

}  // namespace spconv_lite
