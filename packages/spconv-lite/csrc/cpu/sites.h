// The set of occupied sites as a SiteTable that owns its memory: a dense grid of words where that is small
// enough, else a hash table of words with 64-bit keys.
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
// The input grid, and all that the kernel reads from some output cell.
Frame input_frame(const Geometry& g);

class SiteSet {
 public:
  // Room for `sites` sites (hash tables grow past it). `ranked`: rank() will be called, which reads a dense
  // grid whole. Throws native::ValueError if the frame has more than 2^63 - 1 words.
  SiteSet(const Frame& frame, int64_t sites, bool ranked);
  ~SiteSet();
  SiteSet(const SiteSet&) = delete;
  SiteSet& operator=(const SiteSet&) = delete;

  const SiteTable& table() const { return table_; }
  bool hashed() const { return table_.keys != nullptr; }

  // The number of the word that holds x = 0 of a site's line.
  int64_t line_word(int64_t batch, const int64_t* at) const {
    int64_t line = batch;
    for (int axis = 0; axis < max_axes - 1; ++axis)
      line = line * table_.length[axis] + at[axis] + table_.low[axis];
    return line * table_.words_per_line;
  }
  void prefetch(int64_t word) const {
    if (hashed())
      __builtin_prefetch(table_.keys + first_slot(word, table_.hash_mask));
    else
      __builtin_prefetch(table_.bits + word);
  }
  // Adds sites of one word. Not for concurrent use.
  void insert(int64_t word, uint64_t bits) {
    const int64_t slot = hashed() ? find_or_add(word) : word;  // first: the table may move
    table_.bits[slot] |= bits;
  }

  // Inserts every row of int32 indices (rows, 1 + ndim), whose sites lie inside; returns the first row whose
  // site an earlier row has, or -1. `sites` was at least `rows`, and nothing else is inserted.
  int64_t insert_rows(const int32_t* indices, int64_t rows, int ndim);
  // After insert_rows: makes the table answer with rows.
  void rank_rows();

  // Gives ranks in row-major order and returns the number of sites.
  int64_t rank(int threads);
  // The sites in order of rank, after rank().
  void write_sites(int32_t* indices, int ndim, int threads) const;

 private:
  void allocate_words();
  void allocate_slots(int64_t slots);
  void empty_slots();
  void grow();
  int64_t find_or_add(int64_t word);
  void sort_slots();

  SiteTable table_;
  int64_t slots_ = 0;  // words of the dense grid, or slots of the hash table
  int64_t used_ = 0;   // hash table: slots taken
  int64_t rows_ = 0;   // inserted by insert_rows
  Scratch<uint64_t, Content::zero> bits_;
  Scratch<int32_t, Content::zero> first_;
  Scratch<int64_t> keys_;
  Scratch<Place> places_;  // of the rows
  Scratch<int32_t> row_of_rank_;
  Scratch<int64_t> order_;  // hash table: slots in the order of their words
};

}  // namespace spconv_lite
