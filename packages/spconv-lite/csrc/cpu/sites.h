// The set of occupied sites as a SiteTable that owns its memory: the words of the grid as a bitmap with
// ranks where that is small enough, else in a hash table with 64-bit keys.
//
//   add() for every word that has a site; number_words(); then bits and ranks.
#pragma once

#include <cpu/pairs.h>
#include <cpu/scratch.h>

namespace spconv_lite {

// The cells of a SiteTable: a grid and the margin around it.
struct Frame {
  int64_t batch_size;
  int64_t low[max_axes];
  int64_t length[max_axes];
};

Frame bare_frame(int64_t batch_size, const int64_t* shape);

// The kernel indices of one axis that lead from some cell of a submanifold's grid to another.
struct Reach {
  int64_t first, last;
};

Reach submanifold_reach(const Geometry& g, int axis);
// The grid and all that such indices read.
Frame submanifold_frame(const Geometry& g);

class SiteSet {
 public:
  // For about `sites` sites (hash tables grow past it). Throws native::ValueError if the frame has more than
  // 2^63 - 1 words.
  SiteSet(const Frame& frame, int64_t sites);
  SiteSet(const SiteSet&) = delete;
  SiteSet& operator=(const SiteSet&) = delete;

  const SiteTable& table() const { return table_; }

  // Inserts every row of int32 indices (rows, 1 + ndim) into an empty set. Returns the first row outside the
  // input grid, or else the first whose site an earlier row has, or -1.
  int64_t insert_rows(const int32_t* indices, int64_t rows, const Geometry& g, int threads);
  // After insert_rows: makes the table answer with rows.
  void rank_rows();
  // The rows' words, by their numbers in the grid, and their bits.
  const int64_t* row_words() const { return row_words_.get(); }
  const int32_t* row_bits() const { return row_bits_.get(); }

  // First all words that will have sites, by their numbers in the grid;
  void add_words(const int64_t* words, int64_t count);
  // then ids for them, in row-major order if that is asked for;
  void number_words(bool row_major);
  // and the sites, by ids and bits (bits[i] & 63).
  void set_bits(const int64_t* ids, const int32_t* bits, int64_t count);
  // Gives ranks in the order of ids and returns the number of sites.
  int64_t rank();
  // The sites in order of rank, after number_words(true) and rank().
  void write_sites(int32_t* indices, int ndim, int threads) const;

 private:
  bool hashed() const { return table_.groups == nullptr; }
  void allocate_slots(int64_t slots);
  void grow();
  int64_t find_slot(int64_t word) const;
  void add_to_slots(int64_t word);
  void list_numbers();

  SiteTable table_;
  int64_t group_count_ = 0, slot_count_ = 0, word_count_ = 0;
  int64_t rows_ = 0;  // inserted by insert_rows
  Scratch<Group> groups_;
  Scratch<Slot> slots_;
  Scratch<Word> words_;
  Scratch<int64_t> numbers_;  // of the words in the grid, by id, if row-major
  Scratch<int64_t> row_words_, row_ids_;
  Scratch<int32_t> row_bits_, row_of_rank_;
};

}  // namespace spconv_lite
