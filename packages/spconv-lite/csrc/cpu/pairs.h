// The inner loops of the CPU rulebook, over plain memory; compiled for each instruction set.
//
// The occupied sites are kept as one bit each, 64 cells of an x line to a word; the words lie in the
// dense grid, or, where that would be mostly empty, in a hash table. A word knows the rank of its first
// site, so that (bits below me) + rank numbers the site: one popcount in place of a probe. One word
// answers for all offsets of the kernel along x at once.
#pragma once

#include <cstdint>

#include <core/rulebook.h>
#include <native/dispatch.h>

namespace spconv_lite {

// Output rows are handled in blocks: a block's accumulators stay in the first-level cache, and a row's
// place in its block fits 8 bits.
inline constexpr int64_t block_rows = 256;

struct SiteTable {
  int64_t shape[max_axes] = {1, 1, 1, 1};
  int64_t words_per_line = 1;            // ceil(shape[3] / 64)
  uint64_t* bits = nullptr;              // a word for each slot
  int32_t* first = nullptr;              // the rank of a slot's lowest set bit; undefined for bits 0
  int64_t* keys = nullptr;               // hash table: the word's number, -1 empty; dense grid: null
  uint64_t hash_mask = 0;                // hash table: slots - 1, a power of two less one
  const int32_t* row_of_rank = nullptr;  // null where rank and row are the same
};

// Where a hash table looks first for a word (Fibonacci hashing: the high bits of a product are mixed).
// static, like all here: an inline function would be merged across the instruction sets by the linker.
static inline uint64_t first_slot(int64_t word, uint64_t mask) {
  return (static_cast<uint64_t>(word) * 0x9E3779B97F4A7C15ull >> 20) & mask;
}

// How a kernel is read: a segment is a run of offsets along x that fits a window of 64 cells; a group
// is a run of segments whose offsets fit one word of hits. A 3x3x3 kernel is one group of nine segments.
inline constexpr int group_bits = 64;

struct Segment {
  int64_t at[max_axes];  // where it starts, in cells from the first cell of the row's neighbourhood
  int64_t words;         // the same as a difference of word numbers, for at[3] == 0
  int64_t taps;
};

struct Group {
  int64_t first_offset;     // the kernel offset of bit 0
  int64_t reach[max_axes];  // the largest at[] of its segments, with taps for x
  bool whole_lines;         // every segment starts at the first x of the neighbourhood
  int segments;
  Segment segment[group_bits];
  uint8_t segment_of_bit[group_bits];
  int64_t cell_of_bit[group_bits];  // cells from the start of its segment
};

// The number of sites in the words [begin, end).
NATIVE_DECLARE_ISA(int64_t count_sites(const SiteTable& table, int64_t begin, int64_t end))

// Gives ranks to the words [begin, end) in order, from `rank`; returns the rank after the last.
NATIVE_DECLARE_ISA(int64_t rank_words(const SiteTable& table, int64_t begin, int64_t end, int64_t rank))

// For r in [begin, end): rank_of_row[r] = the rank of the site of row r, and row_of_rank its inverse.
NATIVE_DECLARE_ISA(void rank_rows(const SiteTable& table, const Geometry& g, const int32_t* indices,
                                  int64_t begin, int64_t end, int32_t* rank_of_row, int32_t* row_of_rank))

// What find_sources writes for one output row: where its input rows start in the list, and the occupied
// offsets of each group as bits. The rows of these bits follow in the list, in order.
static inline int64_t entry_words(int64_t group_count) { return 1 + group_count; }

// The input rows that the output rows order[begin..end) read, or rows [begin, end) if order is null.
// Entry i goes to entries + i * entry_words(group_count). Returns the length of the list: at most
// volume * (end - begin).
NATIVE_DECLARE_ISA(int64_t find_sources(const SiteTable& table, const Geometry& g, const Group* groups,
                                        int64_t group_count, const int32_t* out_indices, const int32_t* order,
                                        int64_t begin, int64_t end, int32_t* list, uint64_t* entries))

}  // namespace spconv_lite
