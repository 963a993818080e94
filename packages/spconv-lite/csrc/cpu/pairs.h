// The inner loops of the CPU rulebook, over plain memory; compiled for each instruction set.
//
// The occupied sites are kept as one bit each, 64 cells of an x line to a word. Only words with a site are
// stored, side by side; one bit for each word of the grid says which these are, with a count of those before
// it (a bitmap with ranks: Jacobson, Space-efficient Static Trees and Graphs, FOCS 1989), or, where even
// that is too large, a hash table. So what a scan of 120,000 sites reads at random fits the second-level
// cache. A stored word knows the rank of its first site: (bits below me) + rank numbers the site, and one
// word answers for all offsets of the kernel along x at once.
#pragma once

#include <cstdint>

#include <core/rulebook.h>
#include <native/dispatch.h>

namespace spconv_lite {

// Output rows are handled in blocks: a block's accumulators stay in the first-level cache, and a row's
// place in its block fits 8 bits.
inline constexpr int64_t block_rows = 256;

struct Word {
  uint64_t bits;
  int32_t first;  // 1 + the rank of the lowest bit; 0 before ranks are given
};

// 64 neighbouring words of the grid.
struct Group {
  uint64_t present;  // bit i: word i is stored
  int64_t before;    // the id of the first that is
};

struct Slot {
  int64_t word;  // its number in the grid, -1: empty
  int64_t id;
};

// Coordinates are counted from `low` cells before the grid, and an axis is `length` cells long: the
// margin makes every cell that a kernel reads exist, so that no look-up asks where the grid ends.
struct SiteTable {
  int64_t low[max_axes] = {0, 0, 0, 0};
  int64_t length[max_axes] = {1, 1, 1, 1};
  int64_t words_per_line = 1;            // ceil(length[3] / 64)
  Group* groups = nullptr;               // all of the grid's; null: a hash table
  Slot* slots = nullptr;                 // the hash table's
  uint64_t hash_mask = 0;                // slots - 1, a power of two less one
  Word* words = nullptr;                 // by id, from 1 on; words[0] is empty, for those that are not stored
  const int32_t* row_of_rank = nullptr;  // null where rank and row are the same
};

// Where a hash table looks first for a word (Fibonacci hashing: the high bits of a product are mixed).
// static, like all here: an inline function would be merged across the instruction sets by the linker.
static inline uint64_t first_slot(int64_t word, uint64_t mask) {
  return (static_cast<uint64_t>(word) * 0x9E3779B97F4A7C15ull >> 20) & mask;
}

// Gives ids to the words of the groups, in their order, from 1 on; returns how many.
NATIVE_DECLARE_ISA(int64_t number_groups(Group* groups, int64_t count))

// The ids of stored words, by their numbers in the grid. `ids` may be `words`.
NATIVE_DECLARE_ISA(void find_ids(const SiteTable& table, const int64_t* words, int64_t count, int64_t* ids))

// Gives ranks to `count` words in their order; returns how many sites they hold.
NATIVE_DECLARE_ISA(int64_t rank_words(Word* words, int64_t count))

// Row i is the site at bit (bits[i] & 63) of the word ids[i], and all bits are rows. Gives ranks to the words
// in the order of their first row, and writes row_of_rank. Returns whether rank and row are the same.
NATIVE_DECLARE_ISA(bool rank_rows(Word* words, const int64_t* ids, const int32_t* bits, int64_t rows,
                                  int32_t* row_of_rank))

// Where a pair belongs in the compact rulebook, by the output row and kernel offset * 64 + anything.
static inline int64_t bucket_of(int32_t out_row, int32_t tap, int64_t volume) {
  return (out_row >> 8) * volume + (tap >> 6);
}
static_assert(block_rows == 1 << 8);

// Pair i goes to the site at bit (taps[i] & 63) of the word ids[i], through kernel offset taps[i] / 64.
// Writes the rank of the site, and counts the pairs of each block of ranks and offset.
NATIVE_DECLARE_ISA(void find_ranks(const Word* words, const int64_t* ids, const int32_t* taps, int64_t count,
                                   int64_t volume, int32_t* rank, int64_t* pairs))

// A run of kernel offsets along x whose cells lie side by side: read as one window of bits.
struct Segment {
  int64_t words;  // from a row's word to the same x in the segment's line, as a difference of word numbers
  int64_t x;      // cells from a row's cell to the first
  int taps;       // at most most_taps; the same for all segments with this x
};

inline constexpr int most_taps = 32;

// Up to block_rows rows of a submanifold, and where their windows begin.
struct Block {
  int64_t rows;
  const int64_t* row_word;   // of the rows' own cells: the number of the word in the grid,
  const int32_t* row_bit;    // and the bit
  int64_t word[block_rows];  // of a window's first cell, in the row's line
  int32_t bit[block_rows];
  int64_t crossing;  // windows that reach into the next word:
  uint8_t crosses[block_rows];
};

// The windows of all segments with this x.
NATIVE_DECLARE_ISA(void find_windows(const Segment& segment, Block* block))

// The pairs of a block for one segment, sorted by offset and then by row, after find_windows for its x;
// ends[t] is where those of tap t end, counted from `first`. pair_in and pair_out have room for
// pairs_per_segment. Returns the last end.
NATIVE_DECLARE_ISA(int64_t find_pairs(const SiteTable& table, const Segment& segment, const Block& block,
                                      int64_t first, int32_t* pair_in, uint8_t* pair_out, int64_t* ends))

inline constexpr int64_t pairs_per_segment = most_taps * block_rows + 16;  // whole vectors are written

}  // namespace spconv_lite
