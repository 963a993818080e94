// Neighbour tables and the CUDA convolution in the simulator, beside loops over brute-force pairs. Features
// are small integers, so that sums are exact in any order and results must be equal to the bit.
#include <cuda/conv.cu>
#include <cuda/rulebook.cu>

#include <memory>

#include "cusim_test.h"
#include "sites.h"

namespace gpu = spconv_lite::cuda;
using cusim::Buffer;
using gpu::Arithmetic;
using gpu::Channels;
using gpu::NeighbourTable;
using sim::Expected;
using sim::Kind;
using spconv_lite::Geometry;

namespace {

// A table ready for use, in device memory, and what keeps it there.
struct Table {
  Buffer<int32_t> table, order;
  Buffer<uint32_t> masks;
  Buffer<char> workspace;
  int64_t rows, volume;

  Table(int64_t rows_, int64_t volume_)
      : table(static_cast<size_t>(rows_ * volume_)),
        order(static_cast<size_t>(rows_)),
        masks(static_cast<size_t>(gpu::mask_count(rows_, volume_))),
        workspace(static_cast<size_t>(gpu::order_workspace_bytes(rows_))),
        rows(rows_),
        volume(volume_) {}

  void sort(cusim::Device& device) {
    gpu::order_rows(table.data(), rows, volume, order.data(), masks.data(), workspace.data(), &device);
  }
  NeighbourTable view() { return {table.data(), order.data(), masks.data(), rows, volume}; }
};

struct Layer {
  Geometry g;
  Kind kind;
  std::vector<int32_t> sites;
  Expected expected;
  int64_t in_rows, out_rows;
  std::unique_ptr<Table> sources, targets;

  Layer(cusim::Device& device, const Geometry& geometry, Kind kind_, int64_t rows, uint64_t seed)
      : g(geometry), kind(kind_) {
    sim::Random random(seed);
    sites = sim::random_sites(random, g, rows);
    expected = sim::brute_force(sites, g, kind);
    in_rows = static_cast<int64_t>(sites.size()) / (1 + g.ndim);
    out_rows = static_cast<int64_t>(expected.out_indices.size()) / (1 + g.ndim);
    Buffer<int32_t> indices(sites);
    Buffer<gpu::Report> report(1);
    sources = std::make_unique<Table>(out_rows, g.volume());
    targets = std::make_unique<Table>(in_rows, g.volume());
    if (kind == Kind::submanifold) {
      Buffer<char> workspace(static_cast<size_t>(gpu::subm_workspace_bytes(g, in_rows)));
      const std::uint64_t before = device.statistics.operations;
      gpu::subm_neighbours(indices.data(), in_rows, g, sources->table.data(), report.data(), workspace.data(),
                           &device);
      CUSIM_REQUIRE(device.statistics.host_waits == 0);
      // The report is read back by one more; the order of the rows takes five (test_triton.py): 12 a map.
      CUSIM_REQUIRE(device.statistics.operations - before <= 6);
      device.wait();  // before the workspace goes
    } else {
      const bool transposed = kind == Kind::transposed;
      Buffer<char> workspace(static_cast<size_t>(gpu::conv_workspace_bytes(g, in_rows, transposed)));
      CUSIM_REQUIRE(gpu::find_conv_sites(indices.data(), in_rows, g, transposed, report.data(),
                                         workspace.data(), &device)
                        .out_rows == out_rows);
      Buffer<char> sort(static_cast<size_t>(gpu::sort_workspace_bytes(out_rows)));
      Buffer<int32_t> out_indices(expected.out_indices.size());
      gpu::conv_neighbours(indices.data(), in_rows, g, transposed, out_rows, out_indices.data(),
                           targets->table.data(), sources->table.data(), workspace.data(), sort.data(),
                           &device);
      CUSIM_REQUIRE(out_indices.host() == expected.out_indices);
      targets->sort(device);
    }
    sources->sort(device);
    device.wait();
  }

  // The table that brute force gives; by output row, or by input row.
  std::vector<int32_t> expected_table(bool by_output) const {
    const int64_t rows = by_output ? out_rows : in_rows;
    std::vector<int32_t> table(static_cast<size_t>(rows * g.volume()), -1);
    for (int64_t k = 0; k < g.volume(); ++k)
      for (const auto& [in, out] : expected.pairs[static_cast<size_t>(k)])
        table[static_cast<size_t>(k * rows + (by_output ? out : in))] = by_output ? in : out;
    return table;
  }
};

void require_sorted(Table& table) {
  const std::vector<int32_t> neighbours = table.table.host(), order = table.order.host();
  const std::vector<uint32_t> masks = table.masks.host();
  const int64_t words = (table.volume + 31) / 32;
  std::vector<bool> seen(order.size(), false);
  std::vector<uint32_t> expected(masks.size(), 0);
  uint64_t before = 0;
  for (size_t place = 0; place < order.size(); ++place) {
    const size_t row = static_cast<size_t>(order[place]);
    CUSIM_REQUIRE(row < seen.size() && !seen[row]);
    seen[row] = true;
    uint64_t key = 0;
    for (int64_t k = 0; k < table.volume; ++k) {
      if (neighbours[static_cast<size_t>(k * table.rows) + row] < 0) continue;
      if (k < 64) key |= uint64_t{1} << k;
      expected[place / 64 * static_cast<size_t>(words) + static_cast<size_t>(k / 32)] |= 1u << (k % 32);
    }
    CUSIM_REQUIRE(before <= key);
    before = key;
  }
  CUSIM_REQUIRE(masks == expected);
}

// Small integers as sums see them, and as memory holds them.
template <class Math>
struct Integers {
  using Sum = typename Math::Sum;
  using Value = typename Math::Value;
  std::vector<Sum> sums;
  std::vector<Value> values;

  Integers(sim::Random& random, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sums.push_back(static_cast<Sum>(random(-4, 4)));
    for (const Sum sum : sums) values.push_back(gpu::from_sum<Value>(sum));
  }
};

// The sums are exact, so memory holds them rounded once.
template <class Math>
void require_rounded(const std::vector<typename Math::Value>& found,
                     const std::vector<typename Math::Sum>& expected) {
  using Value = typename Math::Value;
  CUSIM_REQUIRE(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    const Value value = gpu::from_sum<Value>(expected[i]);
    CUSIM_REQUIRE(std::memcmp(&found[i], &value, sizeof(Value)) == 0);
  }
}

// Forward, both gradients, beside three loops over the pairs.
template <class Math>
void compare(cusim::Device& device, Layer& layer, Arithmetic arithmetic, const Channels& c, bool with_bias) {
  using T = typename Math::Value;
  using Sum = typename Math::Sum;
  sim::Random random(device.config.seed);
  const int64_t volume = layer.g.volume(), ins = c.in * c.groups, outs = c.out * c.groups;
  const Integers<Math> x(random, layer.in_rows * ins), weight(random, outs * volume * c.in),
      bias(random, outs), gradient(random, layer.out_rows * outs);
  std::vector<Sum> y(static_cast<size_t>(layer.out_rows * outs)), dx(x.sums.size(), 0),
      dw(weight.sums.size(), 0);
  for (size_t i = 0; i < y.size(); ++i) y[i] = with_bias ? bias.sums[i % static_cast<size_t>(outs)] : Sum(0);
  for (int64_t k = 0; k < volume; ++k)
    for (const auto& [in, out] : layer.expected.pairs[static_cast<size_t>(k)])
      for (int64_t o = 0; o < outs; ++o)
        for (int64_t i = 0; i < c.in; ++i) {
          const auto xi = static_cast<size_t>(in * ins + o / c.out * c.in + i);
          const auto wi = static_cast<size_t>((o * volume + k) * c.in + i),
                     yi = static_cast<size_t>(out * outs + o);
          y[yi] += weight.sums[wi] * x.sums[xi];
          dx[xi] += weight.sums[wi] * gradient.sums[yi];
          dw[wi] += x.sums[xi] * gradient.sums[yi];
        }
  if (with_bias)
    for (Sum& value : y) value = std::max(value, Sum(0));  // and relu

  Buffer<T> x_(x.values), weight_(weight.values), bias_(bias.values), gradient_(gradient.values),
      y_(y.size()), dx_(x.sums.size()), dw_(weight.sums.size());
  const uint64_t waits = device.statistics.host_waits;
  gpu::convolve(arithmetic, layer.sources->view(), c, x_.data(), weight_.data(),
                with_bias ? bias_.data() : nullptr, with_bias, y_.data(), &device);
  require_rounded<Math>(y_.host(), y);
  const bool mirror = layer.kind == Kind::submanifold;
  gpu::convolve_back(arithmetic, (mirror ? layer.sources : layer.targets)->view(), mirror, c,
                     gradient_.data(), weight_.data(), dx_.data(), &device);
  require_rounded<Math>(dx_.host(), dx);
  Buffer<char> workspace(
      static_cast<size_t>(gpu::correlate_workspace_bytes(arithmetic, layer.out_rows, volume, c)));
  gpu::correlate(arithmetic, layer.sources->view(), c, x_.data(), gradient_.data(), dw_.data(),
                 workspace.data(), &device);
  require_rounded<Math>(dw_.host(), dw);
  CUSIM_REQUIRE(device.statistics.host_waits == waits);
}

Geometry cube(int ndim, int64_t length, int64_t kernel, int64_t stride, Kind kind) {
  Geometry g;
  g.ndim = ndim;
  g.batch_size = 2;
  for (int axis = spconv_lite::max_axes - ndim; axis < spconv_lite::max_axes; ++axis) {
    g.in_shape[axis] = length;
    g.kernel[axis] = kernel;
    g.stride[axis] = stride;
    g.padding[axis] = kernel / 2;
    g.out_shape[axis] = sim::out_size(g, kind, axis);
  }
  return g;
}

void compare_layer(cusim::Device& device, Arithmetic arithmetic, const Geometry& g, Kind kind, int64_t rows,
                   const Channels& c, bool with_bias = false) {
  Layer layer(device, g, kind, rows, device.config.seed);
  CUSIM_REQUIRE(layer.sources->table.host() == layer.expected_table(true));
  require_sorted(*layer.sources);
  if (kind != Kind::submanifold) {
    CUSIM_REQUIRE(layer.targets->table.host() == layer.expected_table(false));
    require_sorted(*layer.targets);
  }
  gpu::with_arithmetic(arithmetic,
                       [&](auto math) { compare<decltype(math)>(device, layer, arithmetic, c, with_bias); });
}

}  // namespace

CUSIM_CASE(subm_3x3x3_with_wide_loads) {
  compare_layer(device, Arithmetic::float32, cube(3, 8, 3, 1, Kind::submanifold), Kind::submanifold, 150,
                {16, 32});
}
CUSIM_CASE(subm_with_channels_that_fill_no_vector) {
  compare_layer(device, Arithmetic::float32, cube(2, 12, 3, 1, Kind::submanifold), Kind::submanifold, 90,
                {5, 7}, true);
}
CUSIM_CASE(subm_with_more_than_one_tile_of_channels) {
  compare_layer(device, Arithmetic::float32, cube(1, 60, 3, 1, Kind::submanifold), Kind::submanifold, 70,
                {68, 72});
}
CUSIM_CASE(subm_in_float64) {
  compare_layer(device, Arithmetic::float64, cube(2, 12, 3, 1, Kind::submanifold), Kind::submanifold, 90,
                {6, 34}, true);
}
#if !defined(CUSIM_ON_DEVICE)
CUSIM_CASE(the_emulated_float16_survives_the_way_through_float32) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const __half value{static_cast<uint16_t>(bits)};
    const float wide = __half2float(value);
    if (wide == wide) CUSIM_REQUIRE(__float2half(wide).bits == bits);
  }
  CUSIM_REQUIRE(__float2half(2049.0f).bits == __float2half(2048.0f).bits);  // ties to even
  CUSIM_REQUIRE(__half2float(__float2half(65519.0f)) == 65504.0f);
  CUSIM_REQUIRE(device.statistics.launches == 0);
}
#endif
CUSIM_CASE(tensor_cores_in_float16) {
  compare_layer(device, Arithmetic::float16, cube(2, 12, 3, 1, Kind::submanifold), Kind::submanifold, 90,
                {40, 24}, true);
}
CUSIM_CASE(tensor_cores_in_bfloat16) {
  compare_layer(device, Arithmetic::bfloat16, cube(2, 12, 3, 2, Kind::convolution), Kind::convolution, 70,
                {32, 72});
}
CUSIM_CASE(tensor_cores_in_tf32) {
  compare_layer(device, Arithmetic::tf32, cube(2, 12, 3, 1, Kind::submanifold), Kind::submanifold, 90,
                {20, 36}, true);
}
CUSIM_CASE(tensor_cores_with_channels_that_fill_no_vector) {
  for (const Arithmetic arithmetic : {Arithmetic::float16, Arithmetic::tf32})
    compare_layer(device, arithmetic, cube(1, 60, 3, 1, Kind::submanifold), Kind::submanifold, 40, {5, 3});
}
CUSIM_CASE(groups) {
  compare_layer(device, Arithmetic::float32, cube(2, 12, 3, 1, Kind::submanifold), Kind::submanifold, 60,
                {4, 8, 3}, true);
}
CUSIM_CASE(depthwise) {
  compare_layer(device, Arithmetic::float32, cube(2, 12, 3, 1, Kind::submanifold), Kind::submanifold, 60,
                {1, 1, 6});
}
CUSIM_CASE(more_than_64_offsets) {
  compare_layer(device, Arithmetic::float32, cube(1, 60, 67, 1, Kind::submanifold), Kind::submanifold, 60,
                {4, 4});
}
CUSIM_CASE(strided) {
  compare_layer(device, Arithmetic::float32, cube(3, 8, 3, 2, Kind::convolution), Kind::convolution, 60,
                {8, 16}, true);
}
CUSIM_CASE(strided_with_an_even_kernel) {
  compare_layer(device, Arithmetic::float64, cube(2, 12, 2, 2, Kind::convolution), Kind::convolution, 60,
                {3, 5});
}
CUSIM_CASE(transposed) {
  compare_layer(device, Arithmetic::float32, cube(2, 9, 3, 2, Kind::transposed), Kind::transposed, 40, {8, 8},
                true);
}
CUSIM_CASE(four_axes) {
  Geometry g = cube(4, 5, 3, 1, Kind::submanifold);
  g.kernel[0] = g.kernel[2] = 1;
  g.padding[0] = g.padding[2] = 0;
  compare_layer(device, Arithmetic::float32, g, Kind::submanifold, 40, {4, 4});
}
CUSIM_CASE(one_row) {
  compare_layer(device, Arithmetic::float32, cube(3, 8, 3, 1, Kind::submanifold), Kind::submanifold, 1,
                {4, 4});
}

// Row i reads row first + i of x, 64 channels, by a kernel of one offset; the sums of forward and of the
// weight's gradient beside loops. `read` is what those rows hold.
void compare_rows_from(cusim::Device& device, const float* x, int64_t first, const std::vector<float>& read) {
  const int64_t rows = static_cast<int64_t>(read.size()) / 64;
  const Channels c{64, 8};
  Table table(rows, 1);
  std::vector<int32_t> sources(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) sources[static_cast<size_t>(i)] = static_cast<int32_t>(first + i);
  cusim::upload(table.table.data(), sources.data(), sources.size() * sizeof(int32_t));
  table.sort(device);
  sim::Random random(device.config.seed);
  const Integers<gpu::Float32> weight(random, 8 * 64), gradient(random, rows * 8);
  std::vector<float> y(static_cast<size_t>(rows * 8), 0.0f), dw(8 * 64, 0.0f);
  for (size_t i = 0; i < static_cast<size_t>(rows); ++i)
    for (size_t o = 0; o < 8; ++o)
      for (size_t k = 0; k < 64; ++k) {
        y[i * 8 + o] += read[i * 64 + k] * weight.values[o * 64 + k];
        dw[o * 64 + k] += read[i * 64 + k] * gradient.values[i * 8 + o];
      }
  Buffer<float> weight_(weight.values), gradient_(gradient.values), y_(y.size()), dw_(dw.size());
  gpu::convolve(Arithmetic::float32, table.view(), c, x, weight_.data(), nullptr, false, y_.data(), &device);
  CUSIM_REQUIRE(y_.host() == y);
  Buffer<char> workspace(
      static_cast<size_t>(gpu::correlate_workspace_bytes(Arithmetic::float32, rows, 1, c)));
  gpu::correlate(Arithmetic::float32, table.view(), c, x, gradient_.data(), dw_.data(), workspace.data(),
                 &device);
  CUSIM_REQUIRE(dw_.host() == dw);
}

CUSIM_CASE(features_beyond_2_to_the_31_elements) {
  const int64_t first = (int64_t{1} << 31) / 64 + 5, rows = 70;
  cusim::Sparse<float> x(static_cast<size_t>((first + rows) * 64));
  std::vector<float> read;
  for (int64_t i = 0; i < rows * 64; ++i) {
    read.push_back(static_cast<float>(i * 7919 % 9 - 4));
    x[static_cast<size_t>(first * 64 + i)] = read.back();
  }
  compare_rows_from(device, x.data(), first, read);
}

CUSIM_CASE(features_that_are_not_aligned_for_wide_loads) {
  std::vector<float> values{0.0f}, read;
  for (int64_t i = 0; i < 70 * 64; ++i) read.push_back(static_cast<float>(i * 7919 % 9 - 4));
  values.insert(values.end(), read.begin(), read.end());
  Buffer<float> x(values);
  compare_rows_from(device, x.data() + 1, 0, read);
}

CUSIM_CASE(no_rows) {
  Layer layer(device, cube(3, 8, 3, 1, Kind::submanifold), Kind::submanifold, 0, 1);
  compare<gpu::Float32>(device, layer, Arithmetic::float32, {4, 4}, true);
}

CUSIM_CASE(channels_that_the_kernels_do_not_take_are_refused) {
  const NeighbourTable table{nullptr, nullptr, nullptr, 10, 27};
  try {
    gpu::convolve(Arithmetic::float32, table, {0, 4}, nullptr, nullptr, nullptr, false, nullptr, &device);
    CUSIM_REQUIRE(!"accepted");
  } catch (const native::ValueError& error) {
    CUSIM_REQUIRE(std::string(error.what()).find("1 groups of 0 to 4 channels") != std::string::npos);
  }
}

CUSIM_MAIN
