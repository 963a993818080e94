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
#include <cpu/scratch.h>
#include <cpu/sites.h>

namespace spconv_lite {

enum class Kind { submanifold, convolution, transposed };

// The number of cells batch_size * shape[0] * ... ; throws native::ValueError when it passes 2^63 - 1.
int64_t checked_cells(int64_t batch_size, const int64_t* shape, const char* what);

class Rulebook {
 public:
  // indices: int32 (rows, 1 + ndim), checked here: inside the grid and unique, else native::ValueError.
  // Output sites of the other kinds are in row-major order. Throws native::ValueError when a count
  // passes 2^31 - 1 or block_offsets() 2^27.
  // The indices must outlive the rulebook.
  Rulebook(const int32_t* indices, int64_t rows, const Geometry& geometry, Kind kind, int threads);

  const Geometry& geometry() const { return geometry_; }
  int64_t in_rows() const { return in_rows_; }
  int64_t out_rows() const { return out_rows_; }
  int64_t pairs() const { return pairs_; }
  int64_t block_offsets() const { return (out_rows_ + block_rows - 1) / block_rows * geometry_.volume() + 1; }

  void write_out_indices(int32_t* out_indices) const;  // (out_rows, 1 + ndim)
  void write_compact(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const;
  // As spconv lays it out: indice_pairs (2, K, in_rows), unused places -1; indice_num (K,).
  void write_padded(int32_t* indice_pairs, int32_t* indice_num) const;

 private:
  // The pairs of a run of blocks; block_end counts from the first of them.
  struct Chunk {
    int64_t pairs = 0, start = 0;
    Scratch<int32_t> pair_in;
    Scratch<uint8_t> pair_out;
    Scratch<int64_t> block_end;

    void make_room(int64_t more);
  };
  // The pairs of a run of input rows.
  struct Part {
    int64_t pairs = 0;
    Scratch<int64_t> word;  // of the output site; its id, once there are ids
    Scratch<int32_t> tap, in_row, out_row;
    Scratch<int64_t> next;  // where its first pair of each output block and offset goes
  };
  struct Lines;
  void find_chunks(const SiteSet& in);
  Chunk find_chunk(const SiteSet& in, const Lines& lines, int64_t begin, int64_t end) const;
  void find_block(const SiteTable& table, const Lines& lines, Block& block, Chunk& chunk,
                  int64_t* ends) const;
  void find_through_targets(bool transposed);
  void join_chunks(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const;
  void sort_parts(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const;

  Geometry geometry_;
  int threads_;
  int64_t in_rows_ = 0, out_rows_ = 0, pairs_ = 0;
  std::vector<Chunk> chunks_;  // of a submanifold
  std::vector<Part> parts_;    // of the others
  const int32_t* in_indices_;
  Scratch<int32_t> out_indices_;  // none for a submanifold
};

// The same pairs seen from the input rows: sorted by block of 256 input rows, then by offset.
// block_offset has ceil(out_rows / 256) * volume + 1 entries, block_offset_t as many for in_rows.
// Throws native::ValueError when a row is out of range.
void transpose_rulebook(const int32_t* pair_in, const uint8_t* pair_out, const int64_t* block_offset,
                        int64_t pairs, int64_t in_rows, int64_t out_rows, int64_t volume, int threads,
                        int32_t* pair_in_t, uint8_t* pair_out_t, int64_t* block_offset_t);

}  // namespace spconv_lite
