// Launches of the convolution kernels. Compiled and simulated, never run.
#include <algorithm>
#include <string>

#include <cuda/conv.h>
#include <cuda/workspace.h>
#include <native/check.h>
#include <cuda/conv.cuh>

namespace spconv_lite::cuda {

namespace {

constexpr int64_t most_channels = int64_t{1} << 20;  // of all groups: element counts of a row stay in int32

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

void check_channels(const char* function, const Channels& c, int64_t volume) {
  const bool fits = c.in >= 1 && c.out >= 1 && c.groups >= 1 && c.groups <= 65535 &&
                    c.groups * std::max(c.in, c.out) <= most_channels && volume <= 65535;
  if (!fits)
    throw native::ValueError(std::string(function) + ": " + std::to_string(c.groups) + " groups of " +
                             std::to_string(c.in) + " to " + std::to_string(c.out) + " channels and " +
                             std::to_string(volume) +
                             " kernel offsets are outside what the CUDA kernels take; split the layer");
}

Rows rows_of(const NeighbourTable& t) {
  return {t.table, t.order, t.masks, t.rows, static_cast<int>(t.volume)};
}

// Calls f with the type of the arithmetic.
template <class F>
void with_arithmetic(Arithmetic arithmetic, F&& f) {
  switch (arithmetic) {
    case Arithmetic::float32: return f(Float32{});
    case Arithmetic::float64: return f(Float64{});
    case Arithmetic::tf32: return f(TensorFloat32{});
    case Arithmetic::float16: return f(Float16{});
    case Arithmetic::bfloat16: return f(BFloat16{});
  }
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class Math, int V>
void launch_product(const Rows& rows, const Product<typename Math::Value>& p, dev::Stream stream) {
  // Few channels: all four warps down the rows; else two by two.
  if (p.out <= warp_tile)
    dev::launch(implicit_gemm<Math, V, 4>, {round_up(rows.rows, 4 * warp_tile), 1, p.groups}, conv_threads, 0,
                stream, rows, p);
  else
    dev::launch(implicit_gemm<Math, V, 2>,
                {round_up(rows.rows, 2 * warp_tile), round_up(p.out, 2 * warp_tile), p.groups}, conv_threads,
                0, stream, rows, p);
}

// in and out as the product sees them: of x and of y.
void product(Arithmetic arithmetic, const NeighbourTable& table, const void* x, const void* weight,
             const void* bias, void* y, int64_t in, int64_t out, int64_t groups, bool backward, bool mirror,
             bool relu, dev::Stream stream) {
  if (table.rows == 0) return;
  with_arithmetic(arithmetic, [&](auto math) {
    using Math = decltype(math);
    using T = typename Math::Value;
    constexpr int wide = 16 / sizeof(T);
    const Product<T> p{static_cast<const T*>(x),
                       static_cast<const T*>(weight),
                       static_cast<const T*>(bias),
                       static_cast<T*>(y),
                       static_cast<int>(in),
                       static_cast<int>(out),
                       static_cast<int>(groups),
                       backward,
                       mirror,
                       relu};
    const bool packs = in % wide == 0 && (!backward || out % wide == 0) && aligned(x) && aligned(weight);
    if (packs)
      launch_product<Math, wide>(rows_of(table), p, stream);
    else
      launch_product<Math, 1>(rows_of(table), p, stream);
  });
}

// Enough blocks to fill the device, in splits of the rows.
int64_t splits_for(int64_t rows, int64_t volume, const Channels& c) {
  const int64_t side = 2 * warp_tile;
  const int64_t blocks = round_up(c.in, side) * round_up(c.out, side) * c.groups * volume;
  const int64_t wanted = round_up(int64_t{dev::multiprocessors()} * 8, blocks);
  return std::max<int64_t>(1, std::min({wanted, round_up(rows, tile_rows), int64_t{64}}));
}

int64_t weight_size(int64_t volume, const Channels& c) { return c.groups * c.out * volume * c.in; }

}  // namespace

void convolve(Arithmetic arithmetic, const NeighbourTable& table, const Channels& channels, const void* x,
              const void* weight, const void* bias, bool relu, void* y, void* stream) {
  check_channels("convolve", channels, table.volume);
  product(arithmetic, table, x, weight, bias, y, channels.in, channels.out, channels.groups, false, false,
          relu, dev::stream_from(stream));
}

void convolve_back(Arithmetic arithmetic, const NeighbourTable& table, bool mirror, const Channels& channels,
                   const void* gradient, const void* weight, void* x_gradient, void* stream) {
  check_channels("convolve_back", channels, table.volume);
  product(arithmetic, table, gradient, weight, nullptr, x_gradient, channels.out, channels.in,
          channels.groups, true, mirror, false, dev::stream_from(stream));
}

int64_t correlate_workspace_bytes(Arithmetic arithmetic, int64_t rows, int64_t volume,
                                  const Channels& channels) {
  check_channels("correlate", channels, volume);
  const int64_t sum_bytes = arithmetic == Arithmetic::float64 ? 8 : 4;
  return splits_for(rows, volume, channels) * weight_size(volume, channels) * sum_bytes;
}

void correlate(Arithmetic arithmetic, const NeighbourTable& table, const Channels& channels, const void* x,
               const void* gradient, void* weight_gradient, void* workspace, void* stream_handle) {
  check_channels("correlate", channels, table.volume);
  const dev::Stream stream = dev::stream_from(stream_handle);
  with_arithmetic(arithmetic, [&](auto math) {
    using Math = decltype(math);
    using T = typename Math::Value;
    using Sum = typename Math::Sum;
    constexpr int wide = 16 / sizeof(T);
    const int64_t size = weight_size(table.volume, channels), side = 2 * warp_tile;
    const int64_t splits = splits_for(table.rows, table.volume, channels);
    const Correlation<T, Sum> p{static_cast<const T*>(x),
                                static_cast<const T*>(gradient),
                                static_cast<Sum*>(workspace),
                                static_cast<int>(channels.in),
                                static_cast<int>(channels.out),
                                static_cast<int>(channels.groups),
                                round_up(round_up(table.rows, tile_rows), splits)};
    const dev::Dim grid{round_up(channels.in, side) * round_up(channels.out, side) * channels.groups,
                        table.volume, splits};
    const bool packs = channels.in % wide == 0 && channels.out % wide == 0 && aligned(x) && aligned(gradient);
    if (packs)
      dev::launch(correlate_rows<Math, wide>, grid, conv_threads, 0, stream, rows_of(table), p);
    else
      dev::launch(correlate_rows<Math, 1>, grid, conv_threads, 0, stream, rows_of(table), p);
    dev::launch(add_splits<T, Sum>, dev::grid_blocks(round_up(size, conv_threads), 16), conv_threads, 0,
                stream, p.partial, size, static_cast<int>(splits), static_cast<T*>(weight_gradient));
  });
}

}  // namespace spconv_lite::cuda
