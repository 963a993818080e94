#include <algorithm>
#include <string>

#include <cpu/conv.h>
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
constexpr int64_t most_runs = 3;       // of kernel offsets, worked on in parallel
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

// packed (K, rows, padded(columns)) from weight[row * row_stride + k * k_stride + column * column_stride].
template <class T>
void pack(const T* weight, int64_t volume, int64_t rows, int64_t columns, int64_t row_stride,
          int64_t k_stride, int64_t column_stride, T* packed, int threads) {
  const int64_t stride = padded(columns);
  native::parallel_for(volume * rows, (1 << 15) / std::max(stride, int64_t{1}), threads,
                       [&](int64_t begin, int64_t end) {
                         for (int64_t i = begin; i < end; ++i) {
                           const T* from = weight + (i % rows) * row_stride + (i / rows) * k_stride;
                           for (int64_t c = 0; c < stride; ++c)
                             packed[i * stride + c] = c < columns ? from[c * column_stride] : T(0);
                         }
                       });
}

template <class T>
void run(const Map& map, const Features<T>& f, const T* packed, const T* bias, bool mirror, int threads) {
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
      if (!NATIVE_CALL_ISA(convolve_block<T>)(block_of(map, block), part, packed, bias, mirror, sums.get()))
        throw_foreign();
    }
  });
}

}  // namespace

template <class T>
void convolve(const Map& map, const T* x, int64_t in_channels, const T* weight, const T* bias,
              int64_t out_channels, int64_t groups, T* y, int threads) {
  check_offsets(map);
  const int64_t in = in_channels / groups, out = out_channels / groups, k = map.volume;
  const Scratch<T> packed(k * in * padded(out)), padded_bias(padded(out));
  for (int64_t g = 0; g < groups; ++g) {
    pack(weight + g * out * k * in, k, in, out, int64_t{1}, in, k * in, packed.get(), threads);
    if (bias != nullptr) {
      std::fill(padded_bias.get(), padded_bias.get() + padded(out), T(0));
      std::copy(bias + g * out, bias + (g + 1) * out, padded_bias.get());
    }
    const Features<T> f{x + g * in, map.in_rows, in_channels, in, y + g * out, out_channels, out};
    run(map, f, packed.get(), bias != nullptr ? padded_bias.get() : nullptr, false, threads);
  }
}

template <class T>
void convolve_back(const Map& map, bool mirror, const T* gradient, int64_t out_channels, const T* weight,
                   int64_t in_channels, int64_t groups, T* x, int threads) {
  check_offsets(map);
  const int64_t in = in_channels / groups, out = out_channels / groups, k = map.volume;
  const Scratch<T> packed(k * out * padded(in));
  for (int64_t g = 0; g < groups; ++g) {
    pack(weight + g * out * k * in, k, out, in, k * in, in, int64_t{1}, packed.get(), threads);
    const Features<T> f{gradient + g * out, map.in_rows, out_channels, out, x + g * in, in_channels, in};
    run(map, f, packed.get(), static_cast<const T*>(nullptr), mirror, threads);
  }
}

// The sum over blocks is cut into parts by the problem, not by the threads, and added in their order.
template <class T>
void correlate(const Map& map, const T* x, int64_t in_channels, const T* gradient, int64_t out_channels,
               int64_t groups, T* weight_gradient, int threads) {
  check_offsets(map);
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

}  // namespace spconv_lite
