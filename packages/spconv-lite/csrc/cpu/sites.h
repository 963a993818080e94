// The set of occupied sites as a SiteTable that owns its memory: a dense grid of bits where the grid is
// small beside the number of sites, else a hash table of words with 64-bit keys.
#pragma once

#include <cpu/pairs.h>
#include <cpu/scratch.h>

namespace spconv_lite {

// A site as a bit of a word; words are numbered row-major, in 64 bits as row_major_index.
struct Place {
  int64_t word;
  int bit;

  bool operator<(const Place& other) const {
    return word < other.word || (word == other.word && bit < other.bit);
  }
};

class SiteSet {
 public:
  // Room for `sites` sites (hash tables grow past it). The caller has checked the number of cells.
  SiteSet(int64_t batch_size, const int64_t* shape, int64_t sites);

  const SiteTable& table() const { return table_; }
  bool hashed() const { return table_.keys != nullptr; }

  Place place(const Site& site) const {
    int64_t line = site.batch;
    for (int axis = 0; axis < max_axes - 1; ++axis) line = line * table_.shape[axis] + site.at[axis];
    const int64_t x = site.at[max_axes - 1];
    return {line * table_.words_per_line + (x >> 6), static_cast<int>(x & 63)};
  }
  void prefetch(const Place& place) const {
    if (hashed())
      __builtin_prefetch(table_.keys + first_slot(place.word, table_.hash_mask));
    else
      __builtin_prefetch(table_.bits + place.word);
  }
  // Adds one site; false if it was there already. Not for concurrent use.
  bool insert(const Place& place) {
    uint64_t* bits = hashed() ? find_or_add(place.word) : table_.bits + place.word;
    const uint64_t bit = uint64_t{1} << place.bit;
    const bool fresh = (*bits & bit) == 0;
    *bits |= bit;
    return fresh;
  }
  // Gives every site its rank and returns their number. Ranks are row-major if the grid is dense, or
  // if `sorted` asks for it.
  int64_t rank(int threads, bool sorted);
  // Makes the table answer with rows of `indices`, whose sites are the ones inserted, instead of ranks.
  void number_rows(const Geometry& g, const int32_t* indices, int64_t rows, int threads);
  // Null before number_rows. Visiting rows in the order of their rank stays within few cache lines.
  const int32_t* row_of_rank() const { return row_of_rank_.get(); }
  const int32_t* rank_of_row() const { return rank_of_row_.get(); }
  // The sites in order of rank, after rank(threads, sorted = true).
  void write_sites(int32_t* indices, int ndim, int threads) const;

 private:
  void allocate_slots(int64_t slots);
  void grow();
  uint64_t* find_or_add(int64_t word);
  void sort_slots();
  Site site_of(int64_t word, int64_t bit) const;

  SiteTable table_;
  int64_t slots_ = 0;  // words of the dense grid, or slots of the hash table
  int64_t used_ = 0;   // hash table: slots taken
  Scratch<uint64_t> bits_;
  Scratch<int32_t> first_;
  Scratch<int64_t> keys_;
  Scratch<int32_t> row_of_rank_;
  Scratch<int32_t> rank_of_row_;
  Scratch<int64_t> order_;  // hash table, sorted: slots in the order of their words
};

}  // namespace spconv_lite
