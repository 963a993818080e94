// See pairs.h. Nothing of the standard library here: what the linker merges across the instruction
// sets must not have been compiled for the largest.
#include <cpu/pairs.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace spconv_lite {
namespace NATIVE_ISA {

namespace {

inline uint64_t below(int64_t bit) { return (uint64_t{1} << bit) - 1; }

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

// Where the neighbourhoods of a block's rows begin.
struct Starts {
  int64_t line[block_rows];  // the word of x = 0
  int64_t x[block_rows];
};

// What the rows of a block see of one segment.
struct Windows {
  uint32_t hits[block_rows];  // bit t: the cell of tap t is occupied
  int32_t next[block_rows];   // the rank of the next hit
  int32_t high[block_rows];   // the rank of the first hit in the second word, which begins with tap
  int32_t split[block_rows];  // `split`
};

void find_starts(const SiteTable& table, const Geometry& g, const int32_t* out_indices, int64_t rows,
                 Starts& starts) {
  const int spare = max_axes - g.ndim;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* at = out_indices + r * (g.ndim + 1);
    int64_t line = at[0];
    for (int axis = 0; axis < max_axes - 1; ++axis) {
      const int64_t start = axis < spare ? 0 : at[1 + axis - spare] * g.stride[axis];
      line = line * table.length[axis] + start;
    }
    starts.line[r] = line * table.words_per_line;
    starts.x[r] = at[g.ndim] * g.stride[max_axes - 1];
  }
}

template <bool hashed>
void read_windows(const SiteTable& table, const Segment& segment, const Starts& starts, int64_t rows,
                  Windows& windows) {
  const uint64_t mask = below(segment.taps);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t cell = starts.x[r] + segment.x, bit = cell & 63;
    const int64_t number = starts.line[r] + segment.words + (cell >> 6);
    if constexpr (!hashed) {  // rows in no order: their words are asked for ahead of their use
      const int64_t later = r + 24 < rows ? r + 24 : r;
      __builtin_prefetch(table.bits + starts.line[later] + segment.words +
                         ((starts.x[later] + segment.x) >> 6));
    }
    const Word low = find_word<hashed>(table, number);
    uint64_t hits = low.bits >> bit;
    windows.next[r] =
        table.first[hits & mask ? low.slot : 0] - 1 + __builtin_popcountll(low.bits & below(bit));
    windows.split[r] = static_cast<int32_t>(64 - bit);
    if (bit + segment.taps > 64) {
      const Word high = find_word<hashed>(table, number + 1);
      hits |= high.bits << (64 - bit);
      windows.high[r] = table.first[high.slot] - 1;
    }
    windows.hits[r] = static_cast<uint32_t>(hits & mask);
  }
}

// Appends the pairs of one tap, in the order of rows; returns how many.
#if defined(__AVX512F__)
int64_t add_pairs(Windows& w, int64_t rows, int tap, int32_t* pair_in, uint8_t* pair_out) {
  const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << tap)), one = _mm512_set1_epi32(1);
  const __m512i crossing = _mm512_set1_epi32(tap);
  __m512i row = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
  for (int64_t r = 0; r < rows; r += 16) {
    __m512i next = _mm512_loadu_si512(w.next + r);
    next = _mm512_mask_loadu_epi32(next, _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(w.split + r), crossing),
                                   w.high + r);
    const __mmask16 hit = _mm512_test_epi32_mask(_mm512_loadu_si512(w.hits + r), bit);
    // in registers: compressing to memory is slow on Zen 4
    _mm512_storeu_si512(pair_in + count, _mm512_maskz_compress_epi32(hit, next));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(pair_out + count),
                     _mm512_maskz_cvtepi32_epi8(0xFFFF, _mm512_maskz_compress_epi32(hit, row)));
    _mm512_storeu_si512(w.next + r, _mm512_mask_add_epi32(next, hit, next, one));
    count += __builtin_popcount(hit);
    row = _mm512_add_epi32(row, _mm512_set1_epi32(16));
  }
  return count;
}
#else
int64_t add_pairs(Windows& w, int64_t rows, int tap, int32_t* pair_in, uint8_t* pair_out) {
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) {  // without a branch: hits are as good as random
    const int32_t next = w.split[r] == tap ? w.high[r] : w.next[r];
    const int32_t hit = static_cast<int32_t>(w.hits[r] >> tap & 1);
    pair_in[count] = next;
    pair_out[count] = static_cast<uint8_t>(r);
    w.next[r] = next + hit;
    count += hit;
  }
  return count;
}
#endif

template <bool hashed>
void find_ranks_in(const SiteTable& table, const int64_t* words, const int32_t* bits, int64_t count,
                   int32_t* rank) {
  for (int64_t i = 0; i < count; ++i) {
    const Word word = find_word<hashed>(table, words[i]);
    rank[i] = table.first[word.slot] - 1 + __builtin_popcountll(word.bits & below(bits[i] & 63));
  }
}

}  // namespace

int64_t count_sites(const SiteTable& table, int64_t begin, int64_t end) {
  int64_t count = 0;
  for (int64_t slot = begin; slot < end; ++slot) count += __builtin_popcountll(table.bits[slot]);
  return count;
}

int64_t rank_words(const SiteTable& table, int64_t begin, int64_t end, int64_t rank) {
  for (int64_t slot = begin; slot < end; ++slot) {
    if (table.bits[slot] == 0) continue;
    table.first[slot] = static_cast<int32_t>(rank) + 1;
    rank += __builtin_popcountll(table.bits[slot]);
  }
  return rank;
}

bool rank_rows(const SiteTable& table, const Place* places, int64_t rows, int32_t* row_of_rank) {
  constexpr int64_t ahead = 16;
  int32_t unused = 0;
  bool same = true;
  for (int64_t row = 0; row < rows; ++row) {
    if (row + ahead < rows) {
      __builtin_prefetch(table.bits + (places[row + ahead] >> 6));
      __builtin_prefetch(table.first + (places[row + ahead] >> 6));
    }
    const uint64_t bits = table.bits[places[row] >> 6];
    int32_t& first = table.first[places[row] >> 6];
    if (first == 0) {
      first = unused + 1;
      unused += __builtin_popcountll(bits);
    }
    const int32_t rank = first - 1 + __builtin_popcountll(bits & below(places[row] & 63));
    row_of_rank[rank] = static_cast<int32_t>(row);
    same &= rank == row;
  }
  return same;
}

int64_t find_pairs(const SiteTable& table, const Geometry& g, const Segment* segments, int64_t segment_count,
                   const int32_t* out_indices, int64_t begin, int64_t end, int64_t first, int32_t* pair_in,
                   uint8_t* pair_out, int64_t* ends) {
  const int64_t rows = end - begin;
  Starts starts;
  Windows windows;
  find_starts(table, g, out_indices + begin * (g.ndim + 1), rows, starts);
  for (int64_t r = rows; r < (rows + 15) / 16 * 16; ++r) windows.hits[r] = 0;
  int64_t count = 0;
  for (int64_t s = 0; s < segment_count; ++s) {
    if (table.keys != nullptr)
      read_windows<true>(table, segments[s], starts, rows, windows);
    else
      read_windows<false>(table, segments[s], starts, rows, windows);
    for (int tap = 0; tap < segments[s].taps; ++tap) {
      count += add_pairs(windows, rows, tap, pair_in + count, pair_out + count);
      *ends++ = first + count;
    }
  }
  if (table.row_of_rank != nullptr)
    for (int64_t p = 0; p < count; ++p) pair_in[p] = table.row_of_rank[pair_in[p]];
  return first + count;
}

void find_ranks(const SiteTable& table, const int64_t* words, const int32_t* bits, int64_t count,
                int32_t* rank) {
  const auto find = table.keys != nullptr ? find_ranks_in<true> : find_ranks_in<false>;
  find(table, words, bits, count, rank);
}

}  // namespace NATIVE_ISA
}  // namespace spconv_lite
