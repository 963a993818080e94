// The inner loops of the CPU rulebook, over plain memory; compiled for each instruction set.
//
// The occupied sites are kept as one bit each, 64 cells of an x line to a word; the words lie in a dense
// grid, or, where that would take too much memory, in a hash table. A word knows the rank of its first
// site, so that (bits below me) + rank numbers the site: one popcount in place of a probe, and one word
// answers for all offsets of the kernel along x at once.
#pragma once

#include <cstdint>

#include <core/rulebook.h>
#include <native/dispatch.h>

namespace spconv_lite {

// Output rows are handled in blocks: a block's accumulators stay in the first-level cache, and a row's
// place in its block fits 8 bits.
inline constexpr int64_t block_rows = 256;

// Coordinates are counted from `low` cells before the grid, and an axis is `length` cells long: the
// margin makes every cell that a kernel reads exist, so that no look-up asks where the grid ends.
struct SiteTable {
  int64_t low[max_axes] = {0, 0, 0, 0};
  int64_t length[max_axes] = {1, 1, 1, 1};
  int64_t words_per_line = 1;            // ceil(length[3] / 64)
  uint64_t* bits = nullptr;              // a word for each slot
  int32_t* first = nullptr;              // 1 + the rank of a slot's lowest bit; 0 before ranks are given
  int64_t* keys = nullptr;               // hash table: the word's number, -1 empty; dense grid: null
  uint64_t hash_mask = 0;                // hash table: slots - 1, a power of two less one
  const int32_t* row_of_rank = nullptr;  // null where rank and row are the same
};

// Where a hash table looks first for a word (Fibonacci hashing: the high bits of a product are mixed).
// static, like all here: an inline function would be merged across the instruction sets by the linker.
static inline uint64_t first_slot(int64_t word, uint64_t mask) {
  return (static_cast<uint64_t>(word) * 0x9E3779B97F4A7C15ull >> 20) & mask;
}

// A run of kernel offsets along x whose cells lie side by side: read as one window of bits.
struct Segment {
  int64_t words;  // from the word of a row's first cell, as a difference of word numbers
  int64_t x;      // cells from the row's first cell
  int taps;       // at most most_taps
};

inline constexpr int most_taps = 32;

// A slot and a bit of its word: slot * 64 + bit.
using Place = int64_t;

// The number of sites in the words [begin, end).
NATIVE_DECLARE_ISA(int64_t count_sites(const SiteTable& table, int64_t begin, int64_t end))

// Gives ranks to the words [begin, end) in order, from `rank`; returns the rank after the last.
NATIVE_DECLARE_ISA(int64_t rank_words(const SiteTable& table, int64_t begin, int64_t end, int64_t rank))

// Gives ranks to the words of `places` in the order of their first row, and writes row_of_rank. Returns
// whether rank and row are the same.
NATIVE_DECLARE_ISA(bool rank_rows(const SiteTable& table, const Place* places, int64_t rows,
                                  int32_t* row_of_rank))

// The pairs of the output rows [begin, end), at most block_rows, sorted by offset and then by row: those
// of offset k lie in [ends[k - 1], ends[k]), `first` for ends[-1]. pair_in and pair_out have room for
// volume * block_rows + pair_slack pairs. Returns the last end.
NATIVE_DECLARE_ISA(int64_t find_pairs(const SiteTable& table, const Geometry& g, const Segment* segments,
                                      int64_t segment_count, const int32_t* out_indices, int64_t begin,
                                      int64_t end, int64_t first, int32_t* pair_in, uint8_t* pair_out,
                                      int64_t* ends))

inline constexpr int64_t pair_slack = 16;  // whole vectors are written

// rank[i] = the rank of the site at bit (bits[i] & 63) of word number words[i], which is there.
NATIVE_DECLARE_ISA(void find_ranks(const SiteTable& table, const int64_t* words, const int32_t* bits,
                                   int64_t count, int32_t* rank))

}  // namespace spconv_lite
