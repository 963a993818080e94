// What the float and the bfloat16 tiles share. Compiled anew for each level of instruction sets, so nothing
// here has a name outside its file.
#pragma once

#include <cpu/tiles.h>

namespace spconv_lite {
namespace {

template <int number>
struct Count {
  static constexpr int value = number;
};

// Calls body(first column, Count of vectors) for vectors of `width` columns, as many at once as fit.
template <int most_vectors, int width, class Body>
inline void by_columns(int64_t columns, Body&& body) {
  int64_t n = 0;
  for (; n + most_vectors * width <= columns; n += most_vectors * width) body(n, Count<most_vectors>{});
  for (; n + 2 * width <= columns; n += 2 * width) body(n, Count<2>{});
  for (; n + width <= columns; n += width) body(n, Count<1>{});
}

// Asks early for the first lines of a row; the processor asks for what follows them. Always inline: g++ drops
// calls of a function that only prefetches.
template <class T>
[[gnu::always_inline]] inline void ask_for(const T* row, int64_t channels) {
  constexpr int64_t line = 64 / sizeof(T), most_lines = 8;
  for (int64_t c = 0; c < channels && c < most_lines * line; c += line) __builtin_prefetch(row + c);
}

// Asks for the rows of x of the next `rows` pairs, where the map has so many up to `end`.
template <int rows, class T>
[[gnu::always_inline]] inline void ask_for_rows(const Features<T>& f, const int32_t* in, const int32_t* end) {
  if (end - in < rows) return;
  for (int m = 0; m < rows; ++m) ask_for(f.x + in[m] * f.x_stride, f.x_channels);
}

// Whether pairs begin to end, of a block of `rows`, name rows that are there.
inline bool pairs_exist(const BlockMap& map, int64_t rows, int64_t begin, int64_t end, int64_t x_rows) {
  uint32_t in = 0;
  uint8_t out = 0;
  for (int64_t p = begin; p < end; ++p) {
    const uint32_t row = static_cast<uint32_t>(map.pair_in[p]);
    in = row > in ? row : in;
    out = map.pair_out[p] > out ? map.pair_out[p] : out;
  }
  return begin == end || (in < x_rows && out < rows);
}

}  // namespace
}  // namespace spconv_lite
