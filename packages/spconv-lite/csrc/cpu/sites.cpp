#include <algorithm>
#include <vector>

#include <cpu/sites.h>
#include <native/parallel.h>

namespace spconv_lite {

namespace {

// A dense grid is read and cleared whole: it pays up to this many words a site.
constexpr int64_t dense_words_per_site = 128;
constexpr int64_t dense_words_always = 1 << 16;   // 512 KiB
constexpr int64_t dense_words_never = 1ll << 27;  // 1 GiB
constexpr int64_t words_per_chunk = 1 << 15;
constexpr int64_t rows_per_chunk = 1 << 13;

}  // namespace

SiteSet::SiteSet(int64_t batch_size, const int64_t* shape, int64_t sites) {
  std::copy(shape, shape + max_axes, table_.shape);
  table_.words_per_line = (shape[3] + 63) / 64;
  const int64_t words = batch_size * shape[0] * shape[1] * shape[2] * table_.words_per_line;
  const bool dense =
      words <= dense_words_always || (words <= dense_words_never && words / dense_words_per_site <= sites);
  if (dense) {
    slots_ = words;
    bits_ = Scratch<uint64_t>(slots_);
    std::fill(bits_.get(), bits_.get() + slots_, uint64_t{0});
    table_.bits = bits_.get();
  } else {
    int64_t slots = 1024;
    while (slots < 2 * sites) slots *= 2;
    allocate_slots(slots);
  }
}

void SiteSet::allocate_slots(int64_t slots) {
  slots_ = slots;
  bits_ = Scratch<uint64_t>(slots);
  std::fill(bits_.get(), bits_.get() + slots, uint64_t{0});
  keys_ = Scratch<int64_t>(slots);
  std::fill(keys_.get(), keys_.get() + slots, int64_t{-1});
  table_.bits = bits_.get();
  table_.keys = keys_.get();
  table_.hash_mask = static_cast<uint64_t>(slots) - 1;
}

void SiteSet::grow() {
  const Scratch<uint64_t> bits = std::move(bits_);
  const Scratch<int64_t> keys = std::move(keys_);
  const int64_t slots = slots_;
  allocate_slots(2 * slots);
  used_ = 0;
  for (int64_t slot = 0; slot < slots; ++slot)
    if (keys[slot] >= 0) *find_or_add(keys[slot]) = bits[slot];
}

uint64_t* SiteSet::find_or_add(int64_t word) {
  for (uint64_t slot = first_slot(word, table_.hash_mask);; slot = (slot + 1) & table_.hash_mask) {
    if (keys_[slot] == word) return bits_.get() + slot;
    if (keys_[slot] < 0) {
      if (2 * (used_ + 1) > slots_) {
        grow();
        return find_or_add(word);
      }
      ++used_;
      keys_[slot] = word;
      return bits_.get() + slot;
    }
  }
}

void SiteSet::sort_slots() {
  order_ = Scratch<int64_t>(used_);
  int64_t count = 0;
  for (int64_t slot = 0; slot < slots_; ++slot)
    if (keys_[slot] >= 0) order_[count++] = slot;
  const int64_t* keys = keys_.get();
  std::sort(order_.get(), order_.get() + count, [keys](int64_t a, int64_t b) { return keys[a] < keys[b]; });
}

int64_t SiteSet::rank(int threads, bool sorted) {
  first_ = Scratch<int32_t>(slots_);
  table_.first = first_.get();
  if (hashed() && sorted) {
    sort_slots();
    int64_t rank = 0;
    for (int64_t i = 0; i < used_; ++i)
      rank = NATIVE_CALL_ISA(rank_words)(table_, order_[i], order_[i] + 1, rank);
    return rank;
  }
  if (threads == 1) return NATIVE_CALL_ISA(rank_words)(table_, 0, slots_, 0);
  std::vector<int64_t> start((slots_ + words_per_chunk - 1) / words_per_chunk + 1, 0);
  native::parallel_for(slots_, words_per_chunk, threads, [&](int64_t begin, int64_t end) {
    start[begin / words_per_chunk + 1] = NATIVE_CALL_ISA(count_sites)(table_, begin, end);
  });
  for (size_t chunk = 1; chunk < start.size(); ++chunk) start[chunk] += start[chunk - 1];
  native::parallel_for(slots_, words_per_chunk, threads, [&](int64_t begin, int64_t end) {
    NATIVE_CALL_ISA(rank_words)(table_, begin, end, start[begin / words_per_chunk]);
  });
  return start.back();
}

void SiteSet::number_rows(const Geometry& g, const int32_t* indices, int64_t rows, int threads) {
  row_of_rank_ = Scratch<int32_t>(rows);
  rank_of_row_ = Scratch<int32_t>(rows);
  native::parallel_for(rows, rows_per_chunk, threads, [&](int64_t begin, int64_t end) {
    NATIVE_CALL_ISA(rank_rows)(table_, g, indices, begin, end, rank_of_row_.get(), row_of_rank_.get());
  });
  table_.row_of_rank = row_of_rank_.get();
}

Site SiteSet::site_of(int64_t word, int64_t bit) const {
  int64_t lines[max_axes] = {table_.shape[0], table_.shape[1], table_.shape[2], table_.words_per_line};
  Site site = site_at(word, lines);
  site.at[max_axes - 1] = site.at[max_axes - 1] * 64 + bit;
  return site;
}

void SiteSet::write_sites(int32_t* indices, int ndim, int threads) const {
  const int64_t count = hashed() ? used_ : slots_;
  native::parallel_for(count, words_per_chunk, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = hashed() ? order_[i] : i;
      uint64_t bits = table_.bits[slot];
      if (bits == 0) continue;
      Site site = site_of(hashed() ? table_.keys[slot] : slot, 0);
      const int64_t x = site.at[max_axes - 1];
      for (int64_t row = table_.first[slot]; bits != 0; bits &= bits - 1, ++row) {
        site.at[max_axes - 1] = x + __builtin_ctzll(bits);
        write_site(site, indices, row, ndim);
      }
    }
  });
}

}  // namespace spconv_lite
