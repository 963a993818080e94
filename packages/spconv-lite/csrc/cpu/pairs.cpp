// See pairs.h. Nothing of the standard library here: what the linker merges across the instruction
// sets must not have been compiled for the largest.
#include <cpu/pairs.h>

namespace spconv_lite {
namespace NATIVE_ISA {

namespace {

struct Word {
  uint64_t bits;
  int64_t slot;
};

template <bool hashed>
inline Word find_word(const SiteTable& table, int64_t word) {
  if constexpr (!hashed) return {table.bits[word], word};
  uint64_t slot = first_slot(word, table.hash_mask);
  while (table.keys[slot] != word) {
    if (table.keys[slot] < 0) return {0, 0};
    slot = (slot + 1) & table.hash_mask;
  }
  return {table.bits[slot], static_cast<int64_t>(slot)};
}

inline int32_t rank_of_cell(const SiteTable& table, int64_t slot, int64_t cell) {
  const uint64_t below = table.bits[slot] & ((uint64_t{1} << (cell & 63)) - 1);
  return table.first[slot] + __builtin_popcountll(below);
}

// The occupied offsets of a segment that starts at cell x of the words at `line`, as bits; slots
// receives the one or two words that hold them. No branch on what the words hold: it is as good as
// random.
template <bool hashed>
inline uint64_t segment_hits(const SiteTable& table, int64_t taps, int64_t step, int64_t line, int64_t x,
                             bool inside, int64_t slots[2]) {
  const int64_t word = x >> 6, shift = x & 63;
  const bool low_inside = inside & (word >= 0) & (word < table.words_per_line);
  const Word low = find_word<hashed>(table, low_inside ? line + word : 0);
  uint64_t window = low_inside ? low.bits >> shift : 0;
  slots[0] = low.slot;
  if (shift + (taps - 1) * step > 63 && inside && word >= -1 && word + 1 < table.words_per_line) {
    const Word high = find_word<hashed>(table, line + word + 1);
    window |= high.bits << (64 - shift);  // shift > 0: a segment is at most 64 cells
    slots[1] = high.slot;
  }
  if (step == 1) return taps == 64 ? window : window & ((uint64_t{1} << taps) - 1);
  uint64_t hits = 0;
  for (int64_t tap = 0; tap < taps; ++tap) hits |= ((window >> (tap * step)) & 1) << tap;
  return hits;
}

struct Reading {
  uint64_t hits;
  int64_t slots[group_bits][2];
  int64_t shift[group_bits];
};

// The usual case: the neighbourhood lies inside the grid, and each segment in one word.
template <bool hashed>
inline void read_inside(const SiteTable& table, const Group& group, int64_t step, int64_t word, int64_t shift,
                        Reading& reading) {
  reading.hits = 0;
  int64_t position = 0;
  for (int s = 0; s < group.segments; ++s) {
    const Segment& segment = group.segment[s];
    const Word found = find_word<hashed>(table, word + segment.words);
    uint64_t hits = (found.bits >> shift) & (~uint64_t{0} >> (64 - segment.taps));
    if (step > 1) {
      hits = 0;
      for (int64_t tap = 0; tap < segment.taps; ++tap)
        hits |= ((found.bits >> (shift + tap * step)) & 1) << tap;
    }
    reading.hits |= hits << position;
    position += segment.taps;
    reading.slots[s][0] = found.slot;
    reading.shift[s] = shift;
  }
}

template <bool hashed>
void read_anywhere(const SiteTable& table, const Geometry& g, const Group& group, int64_t batch,
                   const int64_t start[max_axes], Reading& reading) {
  const int64_t* shape = table.shape;
  reading.hits = 0;
  int64_t position = 0;
  for (int s = 0; s < group.segments; ++s) {
    const Segment& segment = group.segment[s];
    const int64_t w = start[0] + segment.at[0], z = start[1] + segment.at[1];
    const int64_t y = start[2] + segment.at[2], x = start[3] + segment.at[3];
    const bool inside = w >= 0 && w < shape[0] && z >= 0 && z < shape[1] && y >= 0 && y < shape[2];
    const int64_t line = inside ? ((batch * shape[0] + w) * shape[1] + z) * shape[2] + y : 0;
    reading.hits |= segment_hits<hashed>(table, segment.taps, g.dilation[3], line * table.words_per_line, x,
                                         inside, reading.slots[s])
                    << position;
    position += segment.taps;
    reading.shift[s] = x & 63;
  }
}

// One group for the output site `at`: the hits; their input rows are appended to `list`.
template <bool hashed>
inline uint64_t group_hits(const SiteTable& table, const Geometry& g, const Group& group, const int32_t* at,
                           int32_t*& list) {
  int64_t start[max_axes] = {-g.padding[0], -g.padding[1], -g.padding[2], -g.padding[3]};
  for (int axis = max_axes - g.ndim, column = 1; axis < max_axes; ++axis, ++column)
    start[axis] += at[column] * g.stride[axis];
  bool inside = group.whole_lines & ((start[3] & 63) + group.reach[3] < 64);
  int64_t line = at[0];
  for (int axis = 0; axis < max_axes; ++axis) {
    inside &= (start[axis] >= 0) & (start[axis] + group.reach[axis] < table.shape[axis]);
    if (axis < max_axes - 1) line = line * table.shape[axis] + start[axis];
  }
  Reading reading;
  if (inside)
    read_inside<hashed>(table, group, g.dilation[3], line * table.words_per_line + (start[3] >> 6),
                        start[3] & 63, reading);
  else
    read_anywhere<hashed>(table, g, group, at[0], start, reading);
  for (uint64_t rest = reading.hits; rest != 0; rest &= rest - 1) {
    const int bit = __builtin_ctzll(rest);
    const int s = group.segment_of_bit[bit];
    const int64_t cell = reading.shift[s] + group.cell_of_bit[bit];
    const int32_t rank = rank_of_cell(table, reading.slots[s][cell >> 6], cell);
    *list++ = table.row_of_rank != nullptr ? table.row_of_rank[rank] : rank;
  }
  return reading.hits;
}

template <bool hashed>
int64_t find_in(const SiteTable& table, const Geometry& g, const Group* groups, int64_t group_count,
                const int32_t* out_indices, const int32_t* order, int64_t begin, int64_t end, int32_t* list,
                uint64_t* entries) {
  const int32_t* const list_begin = list;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = order != nullptr ? order[i] : i;
    if (order != nullptr && i + 8 < end) __builtin_prefetch(out_indices + order[i + 8] * int64_t{g.ndim + 1});
    const int32_t* at = out_indices + row * (g.ndim + 1);
    *entries++ = static_cast<uint64_t>(list - list_begin);
    for (int64_t n = 0; n < group_count; ++n) *entries++ = group_hits<hashed>(table, g, groups[n], at, list);
  }
  return list - list_begin;
}

}  // namespace

int64_t count_sites(const SiteTable& table, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t slot = begin; slot < end; ++slot) count += __builtin_popcountll(table.bits[slot]);
  return count;
}

int64_t rank_words(const SiteTable& table, int64_t begin, int64_t end, int64_t rank) {
  const uint64_t* bits = table.bits;
  for (int64_t slot = begin; slot < end;) {
    if (slot + 8 <= end) {  // most words are empty: eight at a time
      uint64_t any = 0;
      for (int i = 0; i < 8; ++i) any |= bits[slot + i];
      if (any == 0) {
        slot += 8;
        continue;
      }
    }
    for (const int64_t stop = slot + 8 < end ? slot + 8 : end; slot < stop; ++slot) {
      if (bits[slot] == 0) continue;
      table.first[slot] = static_cast<int32_t>(rank);
      rank += __builtin_popcountll(bits[slot]);
    }
  }
  return rank;
}

void rank_rows(const SiteTable& table, const Geometry& g, const int32_t* indices, int64_t begin, int64_t end,
               int32_t* rank_of_row, int32_t* row_of_rank) {
  constexpr int64_t batch = 32;  // words are asked for ahead of their use
  int64_t words[batch];
  for (int64_t row = begin; row < end; row += batch) {
    const int64_t count = end - row < batch ? end - row : batch;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t* at = indices + (row + i) * (g.ndim + 1);
      int64_t line = at[0];
      for (int column = 1; column < g.ndim; ++column)
        line = line * table.shape[max_axes - 1 - g.ndim + column] + at[column];
      words[i] = line * table.words_per_line + (at[g.ndim] >> 6);
      if (table.keys == nullptr) {
        __builtin_prefetch(table.bits + words[i]);
        __builtin_prefetch(table.first + words[i]);
      } else {
        __builtin_prefetch(table.keys + first_slot(words[i], table.hash_mask));
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t x = indices[(row + i) * (g.ndim + 1) + g.ndim];
      const Word found =
          table.keys != nullptr ? find_word<true>(table, words[i]) : find_word<false>(table, words[i]);
      const int32_t rank = rank_of_cell(table, found.slot, x);
      rank_of_row[row + i] = rank;
      row_of_rank[rank] = static_cast<int32_t>(row + i);
    }
  }
}

int64_t find_sources(const SiteTable& table, const Geometry& g, const Group* groups, int64_t group_count,
                     const int32_t* out_indices, const int32_t* order, int64_t begin, int64_t end,
                     int32_t* list, uint64_t* entries) {
  const auto find = table.keys != nullptr ? find_in<true> : find_in<false>;
  return find(table, g, groups, group_count, out_indices, order, begin, end, list, entries);
}

}  // namespace NATIVE_ISA
}  // namespace spconv_lite
