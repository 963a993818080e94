#include <algorithm>
#include <atomic>
#include <utility>

#include <cpu/sites.h>
#include <native/check.h>
#include <native/parallel.h>

namespace spconv_lite {

namespace {

constexpr int64_t most_groups = int64_t{4} << 20;  // 64 MiB: what the pool of scratch memory can keep
constexpr int64_t groups_always = 1 << 12;         // 64 KiB
constexpr int64_t groups_per_site = 32;            // all are cleared and counted: up to this many
constexpr int64_t words_per_chunk = 1 << 14;
constexpr int64_t rows_per_chunk = 1 << 14;

// The words and bits of the rows [begin, end). False if one lies outside; what is written is of no use then.
template <int ndim>
bool locate(const SiteTable& table, const Geometry& g, const int32_t* indices, int64_t begin, int64_t end,
            int64_t* words, int32_t* bits) {
  constexpr int spare = max_axes - ndim;
  bool fits = true;
  for (int64_t row = begin; row < end; ++row) {
    const int32_t* at = indices + row * (ndim + 1);
    fits &= at[0] >= 0 && at[0] < g.batch_size;
    uint64_t line = static_cast<uint64_t>(at[0]);  // wraps for a row outside
    int64_t x = 0;
    for (int axis = 0; axis < max_axes; ++axis) {
      const int64_t here = axis < spare ? 0 : at[1 + axis - spare];
      fits &= here >= 0 && here < g.in_shape[axis];
      x = here + table.low[axis];
      if (axis < max_axes - 1)
        line = line * static_cast<uint64_t>(table.length[axis]) + static_cast<uint64_t>(x);
    }
    words[row] = static_cast<int64_t>(line * static_cast<uint64_t>(table.words_per_line)) + (x >> 6);
    bits[row] = static_cast<int32_t>(x & 63);
  }
  return fits;
}

}  // namespace

Frame bare_frame(int64_t batch_size, const int64_t* shape) {
  Frame frame{batch_size, {0, 0, 0, 0}, {}};
  std::copy(shape, shape + max_axes, frame.length);
  return frame;
}

Reach submanifold_reach(const Geometry& g, int axis) {
  const int64_t farthest = std::max<int64_t>(0, g.in_shape[axis] - 1) / g.dilation[axis];
  const int64_t centre = g.kernel[axis] / 2;
  return {std::max<int64_t>(0, centre - farthest), std::min(g.kernel[axis] - 1, centre + farthest)};
}

Frame submanifold_frame(const Geometry& g) {
  Frame frame{g.batch_size, {}, {}};
  for (int axis = 0; axis < max_axes; ++axis) {
    const Reach reach = submanifold_reach(g, axis);
    frame.low[axis] = g.padding[axis] - reach.first * g.dilation[axis];
    frame.length[axis] = g.in_shape[axis] + (reach.last - reach.first) * g.dilation[axis];
  }
  return frame;
}

SiteSet::SiteSet(const Frame& frame, int64_t sites) {
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
  const int64_t groups = words / 64 + 1;
  if (groups <= groups_always || (groups <= most_groups && groups / groups_per_site <= sites)) {
    group_count_ = groups;
    groups_ = Scratch<Group>(groups);
    std::fill_n(groups_.get(), groups, Group{0, 0});
    table_.groups = groups_.get();
  } else {
    int64_t slots = 1024;
    while (slots < 2 * sites) slots *= 2;
    allocate_slots(slots);
  }
}

void SiteSet::allocate_slots(int64_t slots) {
  slots_ = Scratch<Slot>(slots);
  std::fill_n(slots_.get(), slots, Slot{-1, 0});
  slot_count_ = slots;
  table_.slots = slots_.get();
  table_.hash_mask = static_cast<uint64_t>(slots) - 1;
}

void SiteSet::grow() {
  const int64_t count = slot_count_;
  const Scratch<Slot> old = std::exchange(slots_, Scratch<Slot>());
  allocate_slots(2 * count);
  word_count_ = 0;
  for (int64_t i = 0; i < count; ++i)
    if (old[i].word >= 0) add_to_slots(old[i].word);
}

// The slot of a word, or the free one where it would be.
int64_t SiteSet::find_slot(int64_t word) const {
  uint64_t slot = first_slot(word, table_.hash_mask);
  while (slots_[slot].word != word && slots_[slot].word >= 0) slot = (slot + 1) & table_.hash_mask;
  return static_cast<int64_t>(slot);
}

void SiteSet::add_to_slots(int64_t word) {
  Slot& slot = slots_[find_slot(word)];
  if (slot.word == word) return;
  slot = {word, ++word_count_};
  if (2 * word_count_ > slot_count_) grow();
}

void SiteSet::add_words(const int64_t* words, int64_t count) {
  if (hashed())
    for (int64_t i = 0; i < count; ++i) add_to_slots(words[i]);
  else
    for (int64_t i = 0; i < count; ++i) groups_[words[i] >> 6].present |= uint64_t{1} << (words[i] & 63);
}

void SiteSet::number_words(bool row_major) {
  if (!hashed()) word_count_ = NATIVE_CALL_ISA(number_groups)(groups_.get(), group_count_);
  words_ = Scratch<Word>(word_count_ + 1);
  std::fill_n(words_.get(), word_count_ + 1, Word{0, 0});
  table_.words = words_.get();
  if (row_major) list_numbers();
}

void SiteSet::list_numbers() {
  numbers_ = Scratch<int64_t>(word_count_ + 1);
  int64_t* next = numbers_.get() + 1;
  for (int64_t i = 0; i < group_count_; ++i)
    for (uint64_t present = groups_[i].present; present != 0; present &= present - 1)
      *next++ = i * 64 + __builtin_ctzll(present);
  if (!hashed()) return;
  for (int64_t i = 0; i < slot_count_; ++i)
    if (slots_[i].word >= 0) *next++ = slots_[i].word;
  std::sort(numbers_.get() + 1, next);
  for (int64_t id = 1; id <= word_count_; ++id) slots_[find_slot(numbers_[id])].id = id;
}

void SiteSet::set_bits(const int64_t* ids, const int32_t* bits, int64_t count) {
  for (int64_t i = 0; i < count; ++i) words_[ids[i]].bits |= uint64_t{1} << (bits[i] & 63);
}

int64_t SiteSet::insert_rows(const int32_t* indices, int64_t rows, const Geometry& g, int threads) {
  constexpr decltype(&locate<1>) locate_by_ndim[] = {locate<1>, locate<2>, locate<3>, locate<4>};
  rows_ = rows;
  row_words_ = Scratch<int64_t>(rows);
  row_ids_ = Scratch<int64_t>(rows);
  row_bits_ = Scratch<int32_t>(rows);
  std::atomic<bool> fits{true};
  native::parallel_for(rows, rows_per_chunk, threads, [&](int64_t begin, int64_t end) {
    if (!locate_by_ndim[g.ndim - 1](table_, g, indices, begin, end, row_words_.get(), row_bits_.get()))
      fits = false;
  });
  for (int64_t row = 0; !fits; ++row)
    if (!inside(read_site(indices, row, g.ndim), g.batch_size, g.in_shape)) return row;
  add_words(row_words_.get(), rows);
  number_words(false);
  native::parallel_for(rows, rows_per_chunk, threads, [&](int64_t begin, int64_t end) {
    NATIVE_CALL_ISA(find_ids)(table_, row_words_.get() + begin, end - begin, row_ids_.get() + begin);
  });
  for (int64_t row = 0; row < rows; ++row) {
    uint64_t& bits = words_[row_ids_[row]].bits;
    const uint64_t bit = uint64_t{1} << row_bits_[row];
    if (bits & bit) return row;
    bits |= bit;
  }
  return -1;
}

void SiteSet::rank_rows() {
  row_of_rank_ = Scratch<int32_t>(rows_);
  const bool same =
      NATIVE_CALL_ISA(rank_rows)(words_.get(), row_ids_.get(), row_bits_.get(), rows_, row_of_rank_.get());
  table_.row_of_rank = same ? nullptr : row_of_rank_.get();
}

int64_t SiteSet::rank() { return NATIVE_CALL_ISA(rank_words)(words_.get() + 1, word_count_); }

void SiteSet::write_sites(int32_t* indices, int ndim, int threads) const {
  const int64_t lines[max_axes] = {table_.length[0], table_.length[1], table_.length[2],
                                   table_.words_per_line};
  native::parallel_for(word_count_, words_per_chunk, threads, [&](int64_t begin, int64_t end) {
    Site site{};
    int64_t line = -table_.words_per_line;  // its first word: worked out once a line
    for (int64_t id = begin + 1; id <= end; ++id) {
      if (numbers_[id] - line >= table_.words_per_line) {
        site = site_at(numbers_[id], lines);
        line = numbers_[id] - site.at[max_axes - 1];
        for (int axis = 0; axis < max_axes - 1; ++axis) site.at[axis] -= table_.low[axis];
      }
      const int64_t x = (numbers_[id] - line) * 64 - table_.low[max_axes - 1];
      int64_t row = words_[id].first - 1;
      for (uint64_t bits = words_[id].bits; bits != 0; bits &= bits - 1, ++row) {
        site.at[max_axes - 1] = x + __builtin_ctzll(bits);
        write_site(site, indices, row, ndim);
      }
    }
  });
}

}  // namespace spconv_lite
