#include <algorithm>
#include <utility>
#include <vector>

#include <cpu/sites.h>
#include <native/check.h>
#include <native/parallel.h>

namespace spconv_lite {

namespace {

constexpr int64_t most_dense_words = int64_t{8} << 20;  // 96 MiB: what the pool of scratch memory can keep
constexpr int64_t dense_words_per_site = 128;           // read whole: up to this many
constexpr int64_t dense_words_always = 1 << 16;         // 768 KiB
constexpr int64_t words_per_chunk = 1 << 14;

}  // namespace

Frame bare_frame(int64_t batch_size, const int64_t* shape) {
  Frame frame{batch_size, {0, 0, 0, 0}, {}};
  std::copy(shape, shape + max_axes, frame.length);
  return frame;
}

Frame input_frame(const Geometry& g) {
  Frame frame{g.batch_size, {}, {}};
  for (int axis = 0; axis < max_axes; ++axis) {
    const int64_t last = (g.out_shape[axis] - 1) * g.stride[axis] + (g.kernel[axis] - 1) * g.dilation[axis];
    frame.low[axis] = g.padding[axis];
    frame.length[axis] = std::max(g.padding[axis] + g.in_shape[axis], last + 1);
  }
  return frame;
}

SiteSet::SiteSet(const Frame& frame, int64_t sites, bool ranked) {
  std::copy_n(frame.low, max_axes, table_.low);
  std::copy_n(frame.length, max_axes, table_.length);
  table_.words_per_line = (frame.length[3] + 63) / 64;
  int64_t words = 0;
  bool fits = !__builtin_mul_overflow(frame.batch_size, table_.words_per_line, &words);
  for (int axis = 0; axis < max_axes - 1; ++axis)
    fits = fits && !__builtin_mul_overflow(words, frame.length[axis], &words);
  if (!fits)
    throw native::ValueError(
        "get_indice_pairs: the grid and the reach of the kernel around it are more than 2^63 - 1 words of "
        "64 cells; use larger voxels");
  const bool worth_reading = words <= dense_words_always || words / dense_words_per_site <= sites;
  if (words <= most_dense_words && (!ranked || worth_reading)) {
    slots_ = words;
    allocate_words();
  } else {
    int64_t slots = 1024;
    while (slots < 2 * sites) slots *= 2;
    allocate_slots(slots);
  }
}

// Scratch memory goes back as it came: all zero. The few words of rows are cleared one by one.
SiteSet::~SiteSet() {
  if (bits_.get() == nullptr) return;
  if (rows_ == 0) {
    std::fill_n(bits_.get(), slots_, uint64_t{0});
    std::fill_n(first_.get(), slots_, 0);
  }
  for (int64_t row = 0; row < rows_; ++row) bits_[places_[row] >> 6] = first_[places_[row] >> 6] = 0;
}

void SiteSet::allocate_words() {
  bits_ = Scratch<uint64_t, Content::zero>(slots_);
  first_ = Scratch<int32_t, Content::zero>(slots_);
  table_.bits = bits_.get();
  table_.first = first_.get();
}

void SiteSet::allocate_slots(int64_t slots) {
  slots_ = slots;
  allocate_words();
  keys_ = Scratch<int64_t>(slots);
  empty_slots();
}

void SiteSet::empty_slots() {
  std::fill_n(keys_.get(), slots_, int64_t{-1});
  used_ = 0;
  table_.bits = bits_.get();
  table_.first = first_.get();
  table_.keys = keys_.get();
  table_.hash_mask = static_cast<uint64_t>(slots_) - 1;
}

void SiteSet::grow() {
  const int64_t slots = slots_;
  Scratch<uint64_t, Content::zero> bits(2 * slots);  // all that can throw, before anything moves
  Scratch<int32_t, Content::zero> first(2 * slots);
  Scratch<int64_t> keys(2 * slots);
  std::swap(bits, bits_);
  std::swap(first, first_);  // no ranks yet: still zero
  std::swap(keys, keys_);
  slots_ = 2 * slots;
  empty_slots();
  for (int64_t slot = 0; slot < slots; ++slot) {
    if (keys[slot] < 0) continue;
    bits_[find_or_add(keys[slot])] = bits[slot];
    bits[slot] = 0;
  }
}

int64_t SiteSet::find_or_add(int64_t word) {
  for (uint64_t slot = first_slot(word, table_.hash_mask);; slot = (slot + 1) & table_.hash_mask) {
    if (keys_[slot] == word) return static_cast<int64_t>(slot);
    if (keys_[slot] < 0) {
      if (2 * (used_ + 1) > slots_) {
        grow();
        return find_or_add(word);
      }
      ++used_;
      keys_[slot] = word;
      return static_cast<int64_t>(slot);
    }
  }
}

int64_t SiteSet::insert_rows(const int32_t* indices, int64_t rows, int ndim) {
  constexpr int64_t batch = 32;  // words are asked for ahead of their use
  int64_t number[batch], x[batch];
  places_ = Scratch<Place>(rows);
  for (int64_t row = 0; row < rows; row += batch) {
    const int64_t count = std::min(batch, rows - row);
    for (int64_t i = 0; i < count; ++i) {
      const Site site = read_site(indices, row + i, ndim);
      x[i] = site.at[max_axes - 1] + table_.low[max_axes - 1];
      number[i] = line_word(site.batch, site.at) + (x[i] >> 6);
      prefetch(number[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t slot = hashed() ? find_or_add(number[i]) : number[i];
      const uint64_t bit = uint64_t{1} << (x[i] & 63);
      if (bits_[slot] & bit) return row + i;
      bits_[slot] |= bit;
      places_[row + i] = slot * 64 + (x[i] & 63);
      rows_ = row + i + 1;
    }
  }
  return -1;
}

void SiteSet::rank_rows() {
  row_of_rank_ = Scratch<int32_t>(rows_);
  const bool same = NATIVE_CALL_ISA(rank_rows)(table_, places_.get(), rows_, row_of_rank_.get());
  table_.row_of_rank = same ? nullptr : row_of_rank_.get();
}

void SiteSet::sort_slots() {
  order_ = Scratch<int64_t>(used_);
  int64_t count = 0;
  for (int64_t slot = 0; slot < slots_; ++slot)
    if (keys_[slot] >= 0) order_[count++] = slot;
  const int64_t* keys = keys_.get();
  std::sort(order_.get(), order_.get() + count, [keys](int64_t a, int64_t b) { return keys[a] < keys[b]; });
}

int64_t SiteSet::rank(int threads) {
  if (hashed()) {
    sort_slots();
    int64_t rank = 0;
    for (int64_t i = 0; i < used_; ++i)
      rank = NATIVE_CALL_ISA(rank_words)(table_, order_[i], order_[i] + 1, rank);
    return rank;
  }
  if (threads == 1) return NATIVE_CALL_ISA(rank_words)(table_, 0, slots_, 0);
  std::vector<int64_t> start(static_cast<size_t>((slots_ + words_per_chunk - 1) / words_per_chunk + 1), 0);
  native::parallel_for(slots_, words_per_chunk, threads, [&](int64_t begin, int64_t end) {
    start[begin / words_per_chunk + 1] = NATIVE_CALL_ISA(count_sites)(table_, begin, end);
  });
  for (size_t chunk = 1; chunk < start.size(); ++chunk) start[chunk] += start[chunk - 1];
  native::parallel_for(slots_, words_per_chunk, threads, [&](int64_t begin, int64_t end) {
    NATIVE_CALL_ISA(rank_words)(table_, begin, end, start[begin / words_per_chunk]);
  });
  return start.back();
}

void SiteSet::write_sites(int32_t* indices, int ndim, int threads) const {
  const int64_t count = hashed() ? used_ : slots_;
  int64_t lines[max_axes] = {table_.length[0], table_.length[1], table_.length[2], table_.words_per_line};
  native::parallel_for(count, words_per_chunk, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = hashed() ? order_[i] : i;
      uint64_t bits = table_.bits[slot];
      if (bits == 0) continue;
      Site site = site_at(hashed() ? table_.keys[slot] : slot, lines);
      for (int axis = 0; axis < max_axes - 1; ++axis) site.at[axis] -= table_.low[axis];
      const int64_t x = site.at[max_axes - 1] * 64 - table_.low[max_axes - 1];
      for (int64_t row = table_.first[slot] - 1; bits != 0; bits &= bits - 1, ++row) {
        site.at[max_axes - 1] = x + __builtin_ctzll(bits);
        write_site(site, indices, row, ndim);
      }
    }
  });
}

}  // namespace spconv_lite
