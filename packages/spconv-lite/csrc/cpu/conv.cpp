#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include <cpu/conv.h>
#include <cpu/lanes.h>
#include <cpu/narrow.h>
#include <cpu/pairs.h>
#include <cpu/scratch.h>
#include <cpu/tiles.h>
#include <native/check.h>
#include <native/parallel.h>

namespace spconv_lite {

namespace {

constexpr double flops_per_chunk = 4e6;  // about 0.1 ms: small beside a layer, large beside a dispatch
constexpr int64_t most_parts = 8;        // of a weight gradient's sum, so that its memory stays bounded
constexpr int64_t blocks_per_part = 32;
constexpr int64_t lane_blocks_per_part = 8;  // of a depthwise weight gradient
constexpr int64_t most_lane_parts = 32;
constexpr int64_t most_runs = 3;             // of kernel offsets, worked on in parallel
constexpr int64_t blocks_at_once = 4;        // their rows stay in the second-level cache for a run of offsets
constexpr int64_t cached_weights = 1 << 19;  // bytes
constexpr int64_t wide_sum = 1 << 14;        // values: one offset after the other, not a run of them together
constexpr int64_t bytes_of_parts = 64 << 20;  // of a weight gradient's sum

// The inner loops for features of type T.
template <class T>
struct Loops {
  static constexpr bool exact = true;  // a sum is a result as it is
  static int64_t held_values(int64_t, int64_t y_channels) {
    return padded(y_channels) == y_channels ? 0 : padded(y_channels);
  }
  template <class... Args>
  static void pack_panel(Args... args) {
    NATIVE_CALL_ISA(pack_panel<T>)(args...);
  }
  template <class... Args>
  static bool convolve_panel(const BlockMap& map, const Args&... args) {
    return NATIVE_CALL_ISA(convolve_panel<T>)(map, args...);
  }
  template <class... Args>
  static bool correlate_blocks(const BlockMap& map, const Args&... args) {
    return NATIVE_CALL_ISA(correlate_blocks<T>)(map, args...);
  }
  static void put(const T* from, int64_t count, T* to) { std::copy_n(from, count, to); }
};

template <>
struct Loops<Bfloat16> {
  static constexpr bool exact = false;
  static int64_t held_values(int64_t x_channels, int64_t y_channels) {
    return x_channels + padded(y_channels);
  }
  template <class... Args>
  static void pack_panel(Args... args) {
    narrow::pack_panel(args...);
  }
  template <class... Args>
  static bool convolve_panel(const BlockMap& map, const Args&... args) {
    return narrow::convolve_panel(map, args...);
  }
  template <class... Args>
  static bool correlate_blocks(const BlockMap& map, const Args&... args) {
    return narrow::correlate_blocks(map, args...);
  }
  static void put(const float* from, int64_t count, Bfloat16* to) { narrow::round_to(from, count, to); }
};

template <class T>
using SumOf = typename SumType<T>::type;

[[noreturn]] void throw_foreign() {
  throw native::ValueError(
      "spconv_lite: the rulebook names rows that these features do not have; build it for these indices");
}

void check_offsets(const Map& map) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows;
  bool fits = map.block_offset[0] == 0 && map.block_offset[blocks * map.volume] == map.pairs;
  for (int64_t i = 0; i < blocks * map.volume; ++i) fits &= map.block_offset[i] <= map.block_offset[i + 1];
  if (map.order != nullptr && map.in_rows != map.out_rows)
    throw native::ValueError("spconv_lite: the rulebook is of " + std::to_string(map.out_rows) +
                             " rows and the features have " + std::to_string(map.in_rows) +
                             "; build it for these indices");
  for (int64_t i = 0; i < map.out_rows && map.order != nullptr; ++i)
    fits &= map.order[i] >= 0 && map.order[i] < map.out_rows;
  if (!fits) throw_foreign();
}

// The rows of x in the order of the places: what a block reads then lies side by side. bfloat16 (X) that is
// computed with as float (T) is widened on the way.
template <class T, class X = T>
class Placed {
 public:
  Placed(const Map& map, const X* x, int64_t channels, int threads) {
    if constexpr (std::is_same_v<X, T>) {
      at_ = x;
      if (map.order == nullptr) return;
    }
    held_ = Scratch<T>(map.in_rows * channels);
    at_ = held_.get();
    native::parallel_for(map.in_rows, 4096, threads, [&](int64_t begin, int64_t end) {
      if constexpr (std::is_same_v<X, T>)
        NATIVE_CALL_ISA(gather_rows)(reinterpret_cast<const char*>(x), map.order, begin, end,
                                     channels * static_cast<int64_t>(sizeof(T)),
                                     reinterpret_cast<char*>(held_.get()));
      else
        NATIVE_CALL_ISA(widen_rows)(x, map.order, begin, end, channels, held_.get());
    });
  }
  const T* get() const { return at_; }

 private:
  Scratch<T> held_;
  const T* at_ = nullptr;
};

BlockMap block_of(const Map& map, int64_t block) {
  const int64_t first = block * block_rows, rows = std::min(block_rows, map.out_rows - first);
  return {map.pair_in, map.pair_out, map.block_offset + block * map.volume, map.volume, rows,
          first,       map.order};
}

std::vector<int64_t> pairs_by_offset(const Map& map) {
  std::vector<int64_t> pairs(static_cast<size_t>(map.volume), 0);
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows;
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t k = 0; k < map.volume; ++k)
      pairs[static_cast<size_t>(k)] +=
          map.block_offset[block * map.volume + k + 1] - map.block_offset[block * map.volume + k];
  return pairs;
}

// The weights of one group, (volume, x_channels) to y_channels: raw[y * y_step + k * k_step + x * x_step].
template <class T>
struct GroupWeights {
  const T* raw;
  int64_t x_channels, y_channels, y_step, k_step, x_step;

  int64_t panels() const { return (y_channels + panel_columns - 1) / panel_columns; }
  int64_t columns(int64_t panel) const { return std::min(panel_columns, y_channels - panel * panel_columns); }
};

// All panels of the offsets that have pairs, packed: [panel][k][x][columns].
template <class T>
Scratch<T> pack_all(const Map& map, const GroupWeights<T>& w, int threads) {
  const std::vector<int64_t> pairs = pairs_by_offset(map);
  const int64_t volume = map.volume, size = w.x_channels * panel_columns;
  Scratch<T> packed(w.panels() * volume * size);
  native::parallel_for(w.panels() * volume, (1 << 16) / std::max<int64_t>(size, 1) + 1, threads,
                       [&](int64_t begin, int64_t end) {
                         for (int64_t i = begin; i < end; ++i) {
                           const int64_t panel = i / volume, k = i % volume;
                           if (pairs[static_cast<size_t>(k)] == 0) continue;
                           const T* const raw = w.raw + panel * panel_columns * w.y_step + k * w.k_step;
                           Loops<T>::pack_panel(raw, w.x_channels, w.x_step, w.columns(panel), w.y_step,
                                                packed.get() + i * size);
                         }
                       });
  return packed;
}

// How many blocks meet one panel of an offset after the other: one, where the panel's weights for all offsets
// stay in the second-level cache.
template <class T>
int64_t blocks_together(const Map& map, const GroupWeights<T>& w) {
  const int64_t bytes = map.volume * w.x_channels * panel_columns * static_cast<int64_t>(sizeof(T));
  return bytes <= cached_weights ? 1 : blocks_at_once;
}

// f.y is of another type (Y) only as bfloat16 that is computed as float: `y` then takes its place.
template <class T, class Y>
void run(const Map& map, const Features<T>& f, const GroupWeights<T>& w, const Ends<SumOf<T>>& ends, Y* y,
         int threads) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows, panels = w.panels();
  const int64_t together = blocks <= blocks_at_once ? blocks_at_once : blocks_together(map, w);
  const int64_t stripes = (blocks + together - 1) / together, size = w.x_channels * panel_columns;
  const Scratch<T> packed = stripes > 1 ? pack_all(map, w, threads) : Scratch<T>();
  const double flops =
      2.0 * static_cast<double>(map.pairs + 1) * static_cast<double>(f.x_channels * padded(f.y_channels) + 1);
  const int64_t grain = std::max<int64_t>(
      1, static_cast<int64_t>(flops_per_chunk * static_cast<double>(stripes * panels) / flops));
  native::parallel_for(stripes * panels, grain, threads, [&](int64_t begin, int64_t end) {
    const Scratch<SumOf<T>> sums(std::min(together, blocks) * block_rows * panel_columns);
    const Scratch<T> one(stripes > 1 ? 0 : size);
    constexpr bool rounds = !std::is_same_v<T, Y>;
    const Scratch<T> wide(rounds ? std::min(together, blocks) * block_rows * panel_columns : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task / panels * together, panel = task % panels;
      const int64_t first = panel * panel_columns, count = std::min(together, blocks - block);
      BlockMap slice = block_of(map, block);
      slice.rows = std::min(map.out_rows - block * block_rows, count * block_rows);
      Features<T> part = f;
      part.y_channels = w.columns(panel);
      if constexpr (rounds) {
        part.y = wide.get();
        part.y_stride = part.y_channels;
        slice.first = 0;
        slice.order = nullptr;
      } else {
        part.y = y + first;
      }
      const T* const ready = stripes > 1 ? packed.get() + panel * map.volume * size : nullptr;
      const PanelWeights<T> weights{w.raw + first * w.y_step, w.y_step, w.k_step, w.x_step, ready, size};
      const Ends<SumOf<T>> of_panel{ends.bias != nullptr ? ends.bias + first : nullptr,
                                    ends.scale != nullptr ? ends.scale + first : nullptr, ends.rectified};
      if (!Loops<T>::convolve_panel(slice, count, part, weights, of_panel, one.get(), sums.get()))
        throw_foreign();
      if constexpr (rounds) {
        BlockMap places = block_of(map, block);
        places.rows = slice.rows;
        NATIVE_CALL_ISA(round_rows)(wide.get(), part.y_channels, places, y + first, f.y_stride);
      }
    }
  });
}

// A value for each output channel of a group, with zeros up to whole vectors; null stays null.
template <class T>
class Padded {
 public:
  Padded(const T* values, int64_t channels)
      : values_(values),
        channels_(channels),
        held_(values != nullptr ? Scratch<T>(padded(channels)) : Scratch<T>()) {}
  const T* of_group(int64_t g) const {
    if (values_ == nullptr) return nullptr;
    std::fill_n(held_.get(), padded(channels_), T(0));
    std::copy_n(values_ + g * channels_, channels_, held_.get());
    return held_.get();
  }

 private:
  const T* values_;
  int64_t channels_;
  Scratch<T> held_;
};

// (K, channels) of a depthwise weight (channels, K).
template <class T>
Scratch<T> by_offset(const T* weight, int64_t volume, int64_t channels) {
  Scratch<T> turned(volume * channels);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < volume; ++k) turned[k * channels + c] = weight[c * volume + k];
  return turned;
}

// Calls body(block) over all blocks; body returns false for a foreign map.
template <class T, class Body>
void by_block(const Map& map, int64_t channels, int threads, Body&& body) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows;
  const double work = static_cast<double>(map.pairs + 1) * static_cast<double>(channels) * 4;
  const int64_t grain =
      std::max<int64_t>(1, static_cast<int64_t>(flops_per_chunk * static_cast<double>(blocks) / work));
  native::parallel_for(blocks, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      if (!body(block_of(map, block))) throw_foreign();
  });
}

template <class T>
void convolve_lanes(const Map& map, bool mirror, const T* x, const T* weight, const T* bias, int64_t channels,
                    T* y, int threads) {
  const Scratch<T> turned = by_offset(weight, map.volume, channels);
  const Placed<T> placed(map, x, channels, threads);
  by_block<T>(map, channels, threads, [&](const BlockMap& block) {
    return NATIVE_CALL_ISA(depthwise_block<T>)(block, Lanes<T>{placed.get(), map.in_rows, channels, y},
                                               turned.get(), bias, mirror);
  });
}

template <class T>
void correlate_lanes(const Map& map, const T* x, const T* gradient, int64_t channels, T* weight_gradient,
                     int threads) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows, size = map.volume * channels;
  const int64_t parts = std::clamp<int64_t>(blocks / lane_blocks_per_part, 1, most_lane_parts);
  const Scratch<T> sums(parts * size), one(parts * size);
  const Placed<T> placed(map, x, channels, threads);
  native::parallel_for(parts, 1, threads, [&](int64_t part, int64_t) {
    T* const total = sums.get() + part * size;
    T* const block_sums = one.get() + part * size;
    std::fill_n(total, size, T(0));
    for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
      std::fill_n(block_sums, size, T(0));
      const Lanes<const T> f{placed.get(), map.in_rows, channels, gradient};
      if (!NATIVE_CALL_ISA(depthwise_correlate<T>)(block_of(map, block), f, block_sums)) throw_foreign();
      for (int64_t i = 0; i < size; ++i) total[i] += block_sums[i];
    }
  });
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[part * size + i];
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < map.volume; ++k) weight_gradient[c * map.volume + k] = sums[k * channels + c];
}

// The sums of the blocks [begin, end) for the offsets [first_k, last_k); place_of(k) says where they go.
template <class T, class Place>
void correlate_part(const Map& map, const Features<const T>& f, bool turned, int64_t begin, int64_t end,
                    int64_t first_k, int64_t last_k, Place&& place_of) {
  const int64_t columns = padded(f.y_channels);
  const Scratch<T> rows(correlated_rows * Loops<T>::held_values(f.x_channels, f.y_channels));
  std::vector<PairSums<SumOf<T>>> to;
  for (int64_t k = first_k; k < last_k; ++k) to.push_back(place_of(k));
  const int64_t together = last_k - first_k == 1 ? end - begin : blocks_at_once;
  for (int64_t block = begin; block < end; block += together) {
    const int64_t count = std::min(together, end - block);
    BlockMap slice = block_of(map, block);
    slice.rows = std::min(map.out_rows - block * block_rows, count * block_rows);
    for (int64_t k = first_k; k < last_k; ++k)
      if (!Loops<T>::correlate_blocks(slice, count, k, turned, f, rows.get(),
                                      &to[static_cast<size_t>(k - first_k)]))
        throw_foreign();
  }
  for (const PairSums<SumOf<T>>& none : to)
    for (int64_t row = 0; none.first && row < f.x_channels; ++row)
      std::fill_n(none.sums + row * none.stride, columns, SumOf<T>(0));
}

bool depthwise(int64_t in_channels, int64_t out_channels, int64_t groups) {
  return in_channels == groups && out_channels == groups;
}

}  // namespace

template <class T, class X, class Y>
void convolve(const Map& map, const X* x, int64_t in_channels, const T* weight,
              const Ends<typename SumType<T>::type>& ends, int64_t out_channels, int64_t groups, Y* y,
              int threads) {
  check_offsets(map);
  if constexpr (Loops<T>::exact && std::is_same_v<X, T> && std::is_same_v<Y, T>)
    if (depthwise(in_channels, out_channels, groups) && ends.scale == nullptr && !ends.rectified)
      return convolve_lanes(map, false, x, weight, ends.bias, groups, y, threads);
  const int64_t in = in_channels / groups, out = out_channels / groups, k = map.volume;
  const Placed<T, X> placed(map, x, in_channels, threads);
  const Padded<SumOf<T>> bias(ends.bias, out), scale(ends.scale, out);
  for (int64_t g = 0; g < groups; ++g) {
    const GroupWeights<T> weights{weight + g * out * k * in, in, out, k * in, in, 1};
    const Features<T> f{placed.get() + g * in, map.in_rows, in_channels, in, nullptr, out_channels, out};
    run(map, f, weights, Ends<SumOf<T>>{bias.of_group(g), scale.of_group(g), ends.rectified}, y + g * out,
        threads);
  }
}

template <class T, class X>
void convolve_back(const Map& map, bool mirror, const X* gradient, int64_t out_channels, const T* weight,
                   int64_t in_channels, int64_t groups, X* x, int threads) {
  check_offsets(map);
  if constexpr (Loops<T>::exact && std::is_same_v<X, T>)
    if (depthwise(in_channels, out_channels, groups))
      return convolve_lanes(map, mirror, gradient, weight, static_cast<const T*>(nullptr), groups, x,
                            threads);
  const int64_t in = in_channels / groups, out = out_channels / groups, k = map.volume;
  const Placed<T, X> placed(map, gradient, out_channels, threads);
  for (int64_t g = 0; g < groups; ++g) {
    const T* const raw = weight + g * out * k * in + (mirror ? (k - 1) * in : 0);
    const GroupWeights<T> weights{raw, out, in, 1, mirror ? -in : in, k * in};
    const Features<T> f{placed.get() + g * out, map.in_rows, out_channels, out, nullptr, in_channels, in};
    run(map, f, weights, Ends<SumOf<T>>{}, x + g * in, threads);
  }
}

// The sum over blocks is cut into parts by the problem, not by the threads, and added in their order.
template <class T>
void correlate_placed(const Map& map, const T* x, int64_t in_channels, const T* gradient,
                      int64_t out_channels, int64_t groups, T* weight_gradient, int threads) {
  const int64_t in = in_channels / groups, out = out_channels / groups, volume = map.volume;
  // With input channels along the vectors a sum lies as the gradient does; fewer would leave lanes empty.
  const bool turned = in % pad_to == 0;
  const int64_t rows = turned ? out : in, stride = padded(turned ? in : out);
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows, size = rows * stride;
  using Sum = SumOf<T>;
  const int64_t most = bytes_of_parts / (volume * size * static_cast<int64_t>(sizeof(Sum)) + 1);
  const int64_t parts =
      std::clamp<int64_t>(blocks / blocks_per_part, 1, std::clamp<int64_t>(most, 1, most_parts));
  const int64_t runs = size > wide_sum ? volume : std::min(volume, most_runs);
  const bool direct = Loops<T>::exact && turned && parts == 1;
  const Scratch<Sum> sums(direct ? 0 : volume * parts * size);
  for (int64_t g = 0; g < groups; ++g) {
    const Features<const T> by_in{x + g * in,         map.in_rows,  in_channels, in,
                                  gradient + g * out, out_channels, out};
    const Features<const T> by_out{gradient + g * out, map.in_rows, out_channels, out, x + g * in,
                                   in_channels,        in};
    T* const result = weight_gradient + g * out * volume * in;
    const auto place_of = [&](int64_t k, int64_t part) {
      if constexpr (Loops<T>::exact)
        if (direct) return PairSums<Sum>{result + k * in, volume * in, true};
      return PairSums<Sum>{sums.get() + (k * parts + part) * size, stride, true};
    };
    native::parallel_for(parts * runs, 1, threads, [&](int64_t task, int64_t) {
      const int64_t part = task / runs, run = task % runs;
      correlate_part(map, turned ? by_out : by_in, turned, part * blocks / parts, (part + 1) * blocks / parts,
                     run * volume / runs, (run + 1) * volume / runs,
                     [&](int64_t k) { return place_of(k, part); });
    });
    if (direct) continue;
    native::parallel_for(volume, 1, threads, [&](int64_t k, int64_t) {
      Sum* total = sums.get() + k * parts * size;
      for (int64_t part = 1; part < parts; ++part)
        for (int64_t i = 0; i < size; ++i) total[i] += total[part * size + i];
      const Scratch<Sum> row(turned ? 0 : in);
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t i = 0; i < in && !turned; ++i) row[i] = total[i * stride + o];
        Loops<T>::put(turned ? total + o * stride : row.get(), in, result + (o * volume + k) * in);
      }
    });
  }
}

template <class T, class X>
void correlate(const Map& map, const X* x, int64_t in_channels, const X* gradient, int64_t out_channels,
               int64_t groups, T* weight_gradient, int threads) {
  check_offsets(map);
  if constexpr (Loops<T>::exact && std::is_same_v<X, T>)
    if (depthwise(in_channels, out_channels, groups))
      return correlate_lanes(map, x, gradient, groups, weight_gradient, threads);
  Map of_gradient = map;  // an order is that of both sides
  of_gradient.in_rows = map.out_rows;
  const Placed<T, X> placed_x(map, x, in_channels, threads);
  const Placed<T, X> placed_y(of_gradient, gradient, out_channels, threads);
  Map placed = map;
  placed.order = nullptr;
  correlate_placed(placed, placed_x.get(), in_channels, placed_y.get(), out_channels, groups, weight_gradient,
                   threads);
}

template <class T>
void max_pool(const Map& map, const T* x, int64_t channels, T least, T* y, int threads) {
  check_offsets(map);
  const Placed<T> placed(map, x, channels, threads);
  by_block<T>(map, channels, threads, [&](const BlockMap& block) {
    return NATIVE_CALL_ISA(max_block<T>)(block, Lanes<T>{placed.get(), map.in_rows, channels, y}, least);
  });
}

template <class T>
void select_sum(const Map& map, const T* x, const T* of_x, const T* of_y, int64_t channels, T* y,
                int threads) {
  check_offsets(map);
  const Placed<T> placed(map, x, channels, threads), marks(map, of_x, channels, threads);
  by_block<T>(map, channels, threads, [&](const BlockMap& block) {
    return NATIVE_CALL_ISA(select_block<T>)(block, Lanes<T>{placed.get(), map.in_rows, channels, y},
                                            marks.get(), of_y);
  });
}

bool narrow::available() {
#if NATIVE_X86_LEVELS
  static const bool has =
      compiled() && native::isa() == native::Isa::avx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

#define SPCONV_LITE_CONV(T, X, Y)                                                                          \
  template void convolve<T, X, Y>(const Map&, const X*, int64_t, const T*, const Ends<SumOf<T>>&, int64_t, \
                                  int64_t, Y*, int);
#define SPCONV_LITE_GRADIENTS(T, X)                                                                      \
  template void convolve_back<T, X>(const Map&, bool, const X*, int64_t, const T*, int64_t, int64_t, X*, \
                                    int);                                                                \
  template void correlate<T, X>(const Map&, const X*, int64_t, const X*, int64_t, int64_t, T*, int);
SPCONV_LITE_CONV(float, float, float)
SPCONV_LITE_CONV(float, float, Bfloat16)
SPCONV_LITE_CONV(float, Bfloat16, Bfloat16)
SPCONV_LITE_CONV(double, double, double)
SPCONV_LITE_CONV(Bfloat16, Bfloat16, Bfloat16)
SPCONV_LITE_GRADIENTS(float, float)
SPCONV_LITE_GRADIENTS(float, Bfloat16)
SPCONV_LITE_GRADIENTS(double, double)
SPCONV_LITE_GRADIENTS(Bfloat16, Bfloat16)
#undef SPCONV_LITE_CONV
#undef SPCONV_LITE_GRADIENTS

template void max_pool<float>(const Map&, const float*, int64_t, float, float*, int);
template void max_pool<double>(const Map&, const double*, int64_t, double, double*, int);
template void select_sum<float>(const Map&, const float*, const float*, const float*, int64_t, float*, int);
template void select_sum<double>(const Map&, const double*, const double*, const double*, int64_t, double*,
                                 int);

}  // namespace spconv_lite
