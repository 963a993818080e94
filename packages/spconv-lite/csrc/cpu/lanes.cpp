// See lanes.h. Nothing of the standard library here: see pairs.cpp.
#include <cpu/lanes.h>

namespace spconv_lite {
namespace NATIVE_ISA {

namespace {

bool lanes_exist(const BlockMap& map, int64_t x_rows) {
  uint32_t in = 0;
  uint8_t out = 0;
  const int64_t begin = map.offset[0], end = map.offset[map.volume];
  for (int64_t p = begin; p < end; ++p) {
    const uint32_t row = static_cast<uint32_t>(map.pair_in[p]);
    in = row > in ? row : in;
    out = map.pair_out[p] > out ? map.pair_out[p] : out;
  }
  return begin == end || (in < x_rows && out < map.rows);
}

// y[out] += x[in] * w over the pairs of one offset, for `count` channels from `first` on.
template <int count, class T>
inline void add_products(const BlockMap& map, int64_t k, const Lanes<T>& f, const T* w, int64_t first) {
  T weight[count];
  for (int c = 0; c < count; ++c) weight[c] = w[first + c];
  for (int64_t p = map.offset[k]; p < map.offset[k + 1]; ++p) {
    const T* __restrict x = f.x + map.pair_in[p] * f.channels + first;
    T* __restrict y = f.y + row_at(map, map.pair_out[p]) * f.channels + first;
    for (int c = 0; c < count; ++c) y[c] += x[c] * weight[c];
  }
}

template <class T>
void fill_rows(const BlockMap& map, const Lanes<T>& f, T value) {
  for (int64_t row = 0; row < map.rows; ++row) {
    T* const y = f.y + row_at(map, row) * f.channels;
    for (int64_t c = 0; c < f.channels; ++c) y[c] = value;
  }
}

}  // namespace

template <class T>
bool depthwise_block(const BlockMap& map, const Lanes<T>& f, const T* weight, const T* bias, bool mirror) {
  if (!lanes_exist(map, f.x_rows)) return false;
  const int64_t channels = f.channels;
  for (int64_t row = 0; row < map.rows; ++row) {
    T* const y = f.y + row_at(map, row) * channels;
    for (int64_t c = 0; c < channels; ++c) y[c] = bias != nullptr ? bias[c] : T(0);
  }
  for (int64_t k = 0; k < map.volume; ++k) {
    const T* const w = weight + (mirror ? map.volume - 1 - k : k) * channels;
    int64_t c = 0;
    for (; c + 64 <= channels; c += 64) add_products<64>(map, k, f, w, c);
    for (; c + 16 <= channels; c += 16) add_products<16>(map, k, f, w, c);
    for (; c < channels; ++c) add_products<1>(map, k, f, w, c);
  }
  return true;
}

template <class T>
bool depthwise_correlate(const BlockMap& map, const Lanes<const T>& f, T* sums) {
  if (!lanes_exist(map, f.x_rows)) return false;
  const int64_t channels = f.channels;
  for (int64_t k = 0; k < map.volume; ++k) {
    T* __restrict sum = sums + k * channels;
    for (int64_t p = map.offset[k]; p < map.offset[k + 1]; ++p) {
      const T* __restrict x = f.x + map.pair_in[p] * channels;
      const T* __restrict y = f.y + row_at(map, map.pair_out[p]) * channels;
      for (int64_t c = 0; c < channels; ++c) sum[c] += x[c] * y[c];
    }
  }
  return true;
}

template <class T>
bool max_block(const BlockMap& map, const Lanes<T>& f, T least) {
  if (!lanes_exist(map, f.x_rows)) return false;
  const int64_t channels = f.channels;
  bool reached[block_rows] = {};
  fill_rows(map, f, least);
  for (int64_t p = map.offset[0]; p < map.offset[map.volume]; ++p) {
    const T* __restrict x = f.x + map.pair_in[p] * channels;
    T* __restrict y = f.y + row_at(map, map.pair_out[p]) * channels;
    reached[map.pair_out[p]] = true;
    for (int64_t c = 0; c < channels; ++c) y[c] = ((x[c] > y[c]) | (x[c] != x[c])) ? x[c] : y[c];
  }
  for (int64_t row = 0; row < map.rows; ++row)
    for (int64_t c = 0; c < channels && !reached[row]; ++c) f.y[row_at(map, row) * channels + c] = T(0);
  return true;
}

template <class T>
bool select_block(const BlockMap& map, const Lanes<T>& f, const T* of_x, const T* of_y) {
  if (!lanes_exist(map, f.x_rows)) return false;
  const int64_t channels = f.channels;
  fill_rows(map, f, T(0));
  for (int64_t p = map.offset[0]; p < map.offset[map.volume]; ++p) {
    const int64_t in = map.pair_in[p] * channels, out = row_at(map, map.pair_out[p]) * channels;
    const T* __restrict x = f.x + in;
    const T* __restrict a = of_x + in;
    const T* __restrict b = of_y + out;
    T* __restrict y = f.y + out;
    for (int64_t c = 0; c < channels; ++c) y[c] += a[c] == b[c] ? x[c] : T(0);
  }
  return true;
}

#define SPCONV_LITE_LANES(T)                                                                 \
  template bool depthwise_block(const BlockMap&, const Lanes<T>&, const T*, const T*, bool); \
  template bool depthwise_correlate(const BlockMap&, const Lanes<const T>&, T*);             \
  template bool max_block(const BlockMap&, const Lanes<T>&, T);                              \
  template bool select_block(const BlockMap&, const Lanes<T>&, const T*, const T*);
SPCONV_LITE_LANES(float)
SPCONV_LITE_LANES(double)
#undef SPCONV_LITE_LANES

}  // namespace NATIVE_ISA
}  // namespace spconv_lite
