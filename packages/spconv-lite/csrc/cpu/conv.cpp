#include <algorithm>
#include <string>
#include <vector>

#include <cpu/conv.h>
#include <cpu/lanes.h>
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
constexpr int64_t most_runs = 3;       // of kernel offsets, worked on in parallel
constexpr int64_t few_pairs = 32;      // packing a weight costs as much as some dozen products with it
constexpr int64_t blocks_at_once = 4;  // their rows stay in the second-level cache for a run of offsets

[[noreturn]] void throw_foreign() {
  throw native::ValueError(
      "spconv_lite: the rulebook names rows that these features do not have; build it for these indices");
}

void check_offsets(const Map& map) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows;
  bool fits = map.block_offset[0] == 0 && map.block_offset[blocks * map.volume] == map.pairs;
  for (int64_t i = 0; i < blocks * map.volume; ++i) fits &= map.block_offset[i] <= map.block_offset[i + 1];
  if (!fits) throw_foreign();
}

BlockMap block_of(const Map& map, int64_t block) {
  return {map.pair_in, map.pair_out, map.block_offset + block * map.volume, map.volume,
          std::min(block_rows, map.out_rows - block * block_rows)};
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

// The weights of one group, packed where that pays: of offsets with more than few_pairs pairs.
template <class T>
class GroupWeights {
 public:
  // weight[y * y_step + k * k_step + x * x_step]
  GroupWeights(const Map& map, int64_t x_channels, int64_t y_channels, int64_t x_step, int64_t k_step,
               int64_t y_step)
      : pairs_(pairs_by_offset(map)),
        x_channels_(x_channels),
        y_channels_(y_channels),
        x_step_(x_step),
        k_step_(k_step),
        y_step_(y_step),
        of_(static_cast<size_t>(map.volume)) {
    for (int64_t k = 0; k < map.volume; ++k)
      if (pairs_[static_cast<size_t>(k)] > few_pairs) dense_.push_back(k);
    packed_ = Scratch<T>(static_cast<int64_t>(dense_.size()) * x_channels * padded(y_channels));
  }

  // mirror: offset k of the map reads the weight of the mirrored one.
  void pack(const T* weight, bool mirror, int threads) {
    const int64_t volume = static_cast<int64_t>(of_.size()), size = x_channels_ * padded(y_channels_);
    const auto raw = [&](int64_t k) { return weight + (mirror ? volume - 1 - k : k) * k_step_; };
    for (int64_t k = 0; k < volume; ++k) of_[static_cast<size_t>(k)] = {nullptr, raw(k)};
    native::parallel_for(static_cast<int64_t>(dense_.size()), (1 << 16) / std::max<int64_t>(size, 1) + 1,
                         threads, [&](int64_t begin, int64_t end) {
                           for (int64_t i = begin; i < end; ++i) {
                             const int64_t k = dense_[static_cast<size_t>(i)];
                             T* const to = packed_.get() + i * size;
                             NATIVE_CALL_ISA(pack_weight<T>)
                             (raw(k), x_channels_, x_step_, y_channels_, y_step_, to);
                             of_[static_cast<size_t>(k)].packed = to;
                           }
                         });
  }

  Weights<T> get() const { return {of_.data(), x_step_, y_step_}; }

 private:
  std::vector<int64_t> pairs_, dense_;
  int64_t x_channels_, y_channels_, x_step_, k_step_, y_step_;
  std::vector<OffsetWeight<T>> of_;
  Scratch<T> packed_;
};

template <class T>
void run(const Map& map, const Features<T>& f, const Weights<T>& weights, const T* bias, int threads) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows, stride = padded(f.y_channels);
  const double flops =
      2.0 * static_cast<double>(map.pairs + 1) * static_cast<double>(f.x_channels * stride + 1);
  const int64_t grain =
      std::max<int64_t>(1, static_cast<int64_t>(flops_per_chunk * static_cast<double>(blocks) / flops));
  native::parallel_for(blocks, grain, threads, [&](int64_t begin, int64_t end) {
    const Scratch<T> sums(block_rows * stride);
    for (int64_t block = begin; block < end; ++block) {
      Features<T> part = f;
      part.y += block * block_rows * f.y_stride;
      if (!NATIVE_CALL_ISA(convolve_block<T>)(block_of(map, block), part, weights, bias, sums.get()))
        throw_foreign();
    }
  });
}

// (K, channels) of a depthwise weight (channels, K).
template <class T>
Scratch<T> by_offset(const T* weight, int64_t volume, int64_t channels) {
  Scratch<T> turned(volume * channels);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < volume; ++k) turned[k * channels + c] = weight[c * volume + k];
  return turned;
}

// Calls body(block, first row of y) over all blocks; body returns false for a foreign map.
template <class T, class Body>
void by_block(const Map& map, int64_t channels, int threads, Body&& body) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows;
  const double work = static_cast<double>(map.pairs + 1) * static_cast<double>(channels) * 4;
  const int64_t grain =
      std::max<int64_t>(1, static_cast<int64_t>(flops_per_chunk * static_cast<double>(blocks) / work));
  native::parallel_for(blocks, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      if (!body(block_of(map, block), block * block_rows * channels)) throw_foreign();
  });
}

template <class T>
void convolve_lanes(const Map& map, bool mirror, const T* x, const T* weight, const T* bias, int64_t channels,
                    T* y, int threads) {
  const Scratch<T> turned = by_offset(weight, map.volume, channels);
  by_block<T>(map, channels, threads, [&](const BlockMap& block, int64_t at) {
    return NATIVE_CALL_ISA(depthwise_block<T>)(block, Lanes<T>{x, map.in_rows, channels, y + at},
                                               turned.get(), bias, mirror);
  });
}

template <class T>
void correlate_lanes(const Map& map, const T* x, const T* gradient, int64_t channels, T* weight_gradient,
                     int threads) {
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows, size = map.volume * channels;
  const int64_t parts = std::clamp<int64_t>(blocks / lane_blocks_per_part, 1, most_lane_parts);
  const Scratch<T> sums(parts * size), one(parts * size);
  native::parallel_for(parts, 1, threads, [&](int64_t part, int64_t) {
    T* const total = sums.get() + part * size;
    T* const block_sums = one.get() + part * size;
    std::fill_n(total, size, T(0));
    for (int64_t block = part * blocks / parts; block < (part + 1) * blocks / parts; ++block) {
      std::fill_n(block_sums, size, T(0));
      const Lanes<const T> f{x, map.in_rows, channels, gradient + block * block_rows * channels};
      if (!NATIVE_CALL_ISA(depthwise_correlate<T>)(block_of(map, block), f, block_sums)) throw_foreign();
      for (int64_t i = 0; i < size; ++i) total[i] += block_sums[i];
    }
  });
  for (int64_t part = 1; part < parts; ++part)
    for (int64_t i = 0; i < size; ++i) sums[i] += sums[part * size + i];
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < map.volume; ++k) weight_gradient[c * map.volume + k] = sums[k * channels + c];
}

bool depthwise(int64_t in_channels, int64_t out_channels, int64_t groups) {
  return in_channels == groups && out_channels == groups;
}

}  // namespace

template <class T>
void convolve(const Map& map, const T* x, int64_t in_channels, const T* weight, const T* bias,
              int64_t out_channels, int64_t groups, T* y, int threads) {
  check_offsets(map);
  if (depthwise(in_channels, out_channels, groups))
    return convolve_lanes(map, false, x, weight, bias, groups, y, threads);
  const int64_t in = in_channels / groups, out = out_channels / groups, k = map.volume;
  GroupWeights<T> weights(map, in, out, 1, in, k * in);
  const Scratch<T> padded_bias(padded(out));
  for (int64_t g = 0; g < groups; ++g) {
    weights.pack(weight + g * out * k * in, false, threads);
    if (bias != nullptr) {
      std::fill(padded_bias.get(), padded_bias.get() + padded(out), T(0));
      std::copy(bias + g * out, bias + (g + 1) * out, padded_bias.get());
    }
    const Features<T> f{x + g * in, map.in_rows, in_channels, in, y + g * out, out_channels, out};
    run(map, f, weights.get(), bias != nullptr ? padded_bias.get() : static_cast<const T*>(nullptr), threads);
  }
}

template <class T>
void convolve_back(const Map& map, bool mirror, const T* gradient, int64_t out_channels, const T* weight,
                   int64_t in_channels, int64_t groups, T* x, int threads) {
  check_offsets(map);
  if (depthwise(in_channels, out_channels, groups))
    return convolve_lanes(map, mirror, gradient, weight, static_cast<const T*>(nullptr), groups, x, threads);
  const int64_t in = in_channels / groups, out = out_channels / groups, k = map.volume;
  GroupWeights<T> weights(map, out, in, k * in, in, 1);
  for (int64_t g = 0; g < groups; ++g) {
    weights.pack(weight + g * out * k * in, mirror, threads);
    const Features<T> f{gradient + g * out, map.in_rows, out_channels, out, x + g * in, in_channels, in};
    run(map, f, weights.get(), static_cast<const T*>(nullptr), threads);
  }
}

// The sum over blocks is cut into parts by the problem, not by the threads, and added in their order.
template <class T>
void correlate(const Map& map, const T* x, int64_t in_channels, const T* gradient, int64_t out_channels,
               int64_t groups, T* weight_gradient, int threads) {
  check_offsets(map);
  if (depthwise(in_channels, out_channels, groups))
    return correlate_lanes(map, x, gradient, groups, weight_gradient, threads);
  const int64_t in = in_channels / groups, out = out_channels / groups, volume = map.volume;
  const int64_t blocks = (map.out_rows + block_rows - 1) / block_rows, stride = padded(out);
  const int64_t parts = std::clamp<int64_t>(blocks / blocks_per_part, 1, most_parts);
  const int64_t runs = std::min(volume, most_runs), size = in * stride;
  const Scratch<T> sums(volume * parts * size);
  for (int64_t g = 0; g < groups; ++g) {
    const Features<const T> f{x + g * in,         map.in_rows,  in_channels, in,
                              gradient + g * out, out_channels, out};
    native::parallel_for(parts * runs, 1, threads, [&](int64_t task, int64_t) {
      const Scratch<T> rows(stride == out ? 0 : correlated_rows * stride);
      const int64_t part = task / runs, run = task % runs;
      const int64_t first_k = run * volume / runs, last_k = (run + 1) * volume / runs;
      const int64_t last = (part + 1) * blocks / parts;
      for (int64_t k = first_k; k < last_k; ++k)
        std::fill_n(sums.get() + (k * parts + part) * size, size, T(0));
      for (int64_t block = part * blocks / parts; block < last; block += blocks_at_once) {
        const int64_t count = std::min(blocks_at_once, last - block);
        BlockMap slice = block_of(map, block);
        slice.rows = std::min(map.out_rows - block * block_rows, count * block_rows);
        Features<const T> rest = f;
        rest.y += block * block_rows * f.y_stride;
        for (int64_t k = first_k; k < last_k; ++k)
          if (!NATIVE_CALL_ISA(correlate_blocks<T>)(slice, count, k, rest, rows.get(),
                                                    sums.get() + (k * parts + part) * size))
            throw_foreign();
      }
    });
    native::parallel_for(volume, 1, threads, [&](int64_t k, int64_t) {
      T* total = sums.get() + k * parts * size;
      for (int64_t part = 1; part < parts; ++part)
        for (int64_t i = 0; i < size; ++i) total[i] += total[part * size + i];
      for (int64_t o = 0; o < out; ++o)
        for (int64_t i = 0; i < in; ++i)
          weight_gradient[((g * out + o) * volume + k) * in + i] = total[i * stride + o];
    });
  }
}

template <class T>
void max_pool(const Map& map, const T* x, int64_t channels, T least, T* y, int threads) {
  check_offsets(map);
  by_block<T>(map, channels, threads, [&](const BlockMap& block, int64_t at) {
    return NATIVE_CALL_ISA(max_block<T>)(block, Lanes<T>{x, map.in_rows, channels, y + at}, least);
  });
}

template <class T>
void select_sum(const Map& map, const T* x, const T* of_x, const T* of_y, int64_t channels, T* y,
                int threads) {
  check_offsets(map);
  by_block<T>(map, channels, threads, [&](const BlockMap& block, int64_t at) {
    return NATIVE_CALL_ISA(select_block<T>)(block, Lanes<T>{x, map.in_rows, channels, y + at}, of_x,
                                            of_y + at);
  });
}

template void convolve<float>(const Map&, const float*, int64_t, const float*, const float*, int64_t, int64_t,
                              float*, int);
template void convolve<double>(const Map&, const double*, int64_t, const double*, const double*, int64_t,
                               int64_t, double*, int);
template void convolve_back<float>(const Map&, bool, const float*, int64_t, const float*, int64_t, int64_t,
                                   float*, int);
template void convolve_back<double>(const Map&, bool, const double*, int64_t, const double*, int64_t, int64_t,
                                    double*, int);
template void correlate<float>(const Map&, const float*, int64_t, const float*, int64_t, int64_t, float*,
                               int);
template void correlate<double>(const Map&, const double*, int64_t, const double*, int64_t, int64_t, double*,
                                int);

template void max_pool<float>(const Map&, const float*, int64_t, float, float*, int);
template void max_pool<double>(const Map&, const double*, int64_t, double, double*, int);
template void select_sum<float>(const Map&, const float*, const float*, const float*, int64_t, float*, int);
template void select_sum<double>(const Map&, const double*, const double*, const double*, int64_t, double*,
                                 int);

}  // namespace spconv_lite
