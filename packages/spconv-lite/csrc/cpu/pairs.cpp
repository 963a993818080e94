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

// The id of a word, 0 if it is not stored.
template <bool hashed>
inline int64_t find_id(const SiteTable& table, int64_t word) {
  if constexpr (!hashed) {  // without a branch: whether a neighbour is there is as good as random
    const Group group = table.groups[word >> 6];
    const int64_t stored = static_cast<int64_t>(group.present >> (word & 63) & 1);
    return (group.before + __builtin_popcountll(group.present & below(word & 63))) & -stored;
  }
  uint64_t slot = first_slot(word, table.hash_mask);
  while (table.slots[slot].word != word) {
    if (table.slots[slot].word < 0) return 0;
    slot = (slot + 1) & table.hash_mask;
  }
  return table.slots[slot].id;
}

// What the rows of a block see of one segment.
struct Windows {
  uint32_t hits[block_rows];  // bit t: the cell of tap t is occupied
  int32_t next[block_rows];   // the rank of the next hit
  int32_t high[block_rows];   // the rank of the first hit in the second word, which begins at bit 64
};

template <bool hashed>
void read_windows(const SiteTable& table, const Segment& segment, const Block& block, Windows& windows) {
  const uint64_t mask = below(segment.taps);
  int64_t id[block_rows];
  for (int64_t r = 0; r < block.rows; ++r) {
    id[r] = find_id<hashed>(table, block.word[r] + segment.words);
    __builtin_prefetch(table.words + id[r]);
  }
  for (int64_t r = 0; r < block.rows; ++r) {
    const int64_t bit = block.bit[r];
    const Word low = table.words[id[r]];
    windows.next[r] = low.first - 1 + __builtin_popcountll(low.bits & below(bit));
    windows.hits[r] = static_cast<uint32_t>(low.bits >> bit & mask);
  }
  for (int64_t i = 0; i < block.crossing; ++i) {
    const int64_t r = block.crosses[i], bit = block.bit[r];
    const Word high = table.words[find_id<hashed>(table, block.word[r] + segment.words + 1)];
    windows.hits[r] |= static_cast<uint32_t>(high.bits << (64 - bit) & mask);
    windows.high[r] = high.first - 1;
  }
}

// Appends the pairs of one tap, in the order of rows; returns how many.
#if defined(__AVX512F__)
int64_t add_pairs(const Block& block, Windows& w, int tap, int32_t* pair_in, uint8_t* pair_out) {
  const __m512i bit = _mm512_set1_epi32(static_cast<int>(1u << tap)), one = _mm512_set1_epi32(1);
  const __m512i crossing = _mm512_set1_epi32(64 - tap);
  __m512i row = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
  for (int64_t r = 0; r < block.rows; r += 16) {
    __m512i next = _mm512_loadu_si512(w.next + r);
    next = _mm512_mask_loadu_epi32(next, _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(block.bit + r), crossing),
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
int64_t add_pairs(const Block& block, Windows& w, int tap, int32_t* pair_in, uint8_t* pair_out) {
  int64_t count = 0;
  for (int64_t r = 0; r < block.rows; ++r) {  // without a branch: hits are as good as random
    const int32_t next = block.bit[r] == 64 - tap ? w.high[r] : w.next[r];
    const int32_t hit = static_cast<int32_t>(w.hits[r] >> tap & 1);
    pair_in[count] = next;
    pair_out[count] = static_cast<uint8_t>(r);
    w.next[r] = next + hit;
    count += hit;
  }
  return count;
}
#endif

}  // namespace

int64_t number_groups(Group* groups, int64_t count) {
  int64_t id = 1;
  for (int64_t i = 0; i < count; ++i) {
    groups[i].before = id;
    id += __builtin_popcountll(groups[i].present);
  }
  return id - 1;
}

void find_ids(const SiteTable& table, const int64_t* words, int64_t count, int64_t* ids) {
  for (int64_t i = 0; i < count; ++i)
    ids[i] = table.groups ? find_id<false>(table, words[i]) : find_id<true>(table, words[i]);
}

int64_t rank_words(Word* words, int64_t count) {
  int64_t rank = 0;
  for (int64_t i = 0; i < count; ++i) {
    words[i].first = static_cast<int32_t>(rank) + 1;
    rank += __builtin_popcountll(words[i].bits);
  }
  return rank;
}

bool rank_rows(Word* words, const int64_t* ids, const int32_t* bits, int64_t rows, int32_t* row_of_rank) {
  int32_t unused = 0;
  bool same = true;
  for (int64_t row = 0; row < rows; ++row) {
    Word& word = words[ids[row]];
    if (word.first == 0) {
      word.first = unused + 1;
      unused += __builtin_popcountll(word.bits);
    }
    const int32_t rank = word.first - 1 + __builtin_popcountll(word.bits & below(bits[row] & 63));
    row_of_rank[rank] = static_cast<int32_t>(row);
    same &= rank == row;
  }
  return same;
}

void find_ranks(const Word* words, const int64_t* ids, const int32_t* taps, int64_t count, int64_t volume,
                int32_t* rank, int64_t* pairs) {
  for (int64_t i = 0; i < count; ++i) {
    const Word word = words[ids[i]];
    rank[i] = word.first - 1 + __builtin_popcountll(word.bits & below(taps[i] & 63));
    ++pairs[bucket_of(rank[i], taps[i], volume)];
  }
}

void find_windows(const Segment& segment, Block* block) {
  for (int64_t r = 0; r < block->rows; ++r) {
    const int64_t cell = block->row_bit[r] + segment.x;
    block->word[r] = block->row_word[r] + (cell >> 6);
    block->bit[r] = static_cast<int32_t>(cell & 63);
  }
  block->crossing = 0;
  if (segment.taps == 1) return;
  for (int64_t r = 0; r < block->rows; ++r) {
    block->crosses[block->crossing] = static_cast<uint8_t>(r);
    block->crossing += block->bit[r] + segment.taps > 64;
  }
}

int64_t find_pairs(const SiteTable& table, const Segment& segment, const Block& block, int64_t first,
                   int32_t* pair_in, uint8_t* pair_out, int64_t* ends) {
  Windows windows;
  for (int64_t r = block.rows; r < (block.rows + 15) / 16 * 16; ++r) windows.hits[r] = 0;
  if (table.groups == nullptr)
    read_windows<true>(table, segment, block, windows);
  else
    read_windows<false>(table, segment, block, windows);
  int64_t count = 0;
  for (int tap = 0; tap < segment.taps; ++tap) {
    count += add_pairs(block, windows, tap, pair_in + count, pair_out + count);
    ends[tap] = first + count;
  }
  if (table.row_of_rank != nullptr)
    for (int64_t p = 0; p < count; ++p) pair_in[p] = table.row_of_rank[pair_in[p]];
  return first + count;
}

}  // namespace NATIVE_ISA
}  // namespace spconv_lite
