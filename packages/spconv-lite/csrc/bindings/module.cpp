// spconv_lite._C: check, unwrap, call. Private: kernels/ops.py is the door, see native/caster.h.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include <bindings/cuda.h>
#include <bindings/shared.h>
#include <cpu/conv.h>
#include <cpu/narrow.h>
#include <cpu/rulebook.h>
#include <cpu/voxels.h>
#include <native/caster.h>
#include <native/dispatch.h>
#include <native/parallel.h>

namespace nb = nanobind;
using namespace nb::literals;
using native::Dim;
using native::require;
using native::operator==;  // the types live in native::dlpack
using native::Tensor;
using spconv_lite::Geometry;
using spconv_lite::Kind;
using spconv_lite::bindings::Axes;
using spconv_lite::bindings::make_geometry;

namespace {

constexpr auto cpu = native::dlpack::cpu;

// A rulebook and the Python tensor whose memory it reads.
struct OwnedRulebook {
  nb::object indices;
  spconv_lite::Rulebook rulebook;
};

OwnedRulebook* build_rulebook(nb::object owner, const Tensor& indices, int ndim, int64_t batch_size,
                              const Axes& in_shape, const Axes& out_shape, const Axes& kernel,
                              const Axes& stride, const Axes& padding, const Axes& dilation, int kind,
                              int threads) {
  Dim n("N");
  require(indices, "get_indice_pairs", "indices", cpu, native::int32, n, ndim + 1);
  const Geometry g = make_geometry(ndim, batch_size, in_shape, out_shape, kernel, stride, padding, dilation);
  nb::gil_scoped_release released;
  spconv_lite::Rulebook rulebook(indices.data_as<int32_t>(), n.length(), g, static_cast<Kind>(kind), threads);
  return new OwnedRulebook{std::move(owner), std::move(rulebook)};
}

void require_out_indices(const Tensor& out_indices, const spconv_lite::Rulebook& rulebook) {
  require(out_indices, "get_indice_pairs", "out_indices", cpu, native::int32, rulebook.out_rows(),
          rulebook.geometry().ndim + 1);
}

void write_compact(const OwnedRulebook& self, const std::optional<Tensor>& out_indices, const Tensor& pair_in,
                   const Tensor& pair_out, const Tensor& block_offset) {
  const auto& rulebook = self.rulebook;
  if (out_indices) require_out_indices(*out_indices, rulebook);
  require(pair_in, "get_indice_pairs", "pair_in", cpu, native::int32, rulebook.pairs());
  require(pair_out, "get_indice_pairs", "pair_out", cpu, native::uint8, rulebook.pairs());
  require(block_offset, "get_indice_pairs", "block_offset", cpu, native::int64, rulebook.block_offsets());
  nb::gil_scoped_release released;
  if (out_indices) rulebook.write_out_indices(out_indices->data_as<int32_t>());
  rulebook.write_compact(pair_in.data_as<int32_t>(), pair_out.data_as<uint8_t>(),
                         block_offset.data_as<int64_t>());
}

void write_padded(const OwnedRulebook& self, const Tensor& out_indices, const Tensor& indice_pairs,
                  const Tensor& indice_num) {
  const auto& rulebook = self.rulebook;
  const int64_t volume = rulebook.geometry().volume();
  require_out_indices(out_indices, rulebook);
  require(indice_num, "get_indice_pairs", "indice_num", cpu, native::int32, volume);
  require(indice_pairs, "get_indice_pairs", "indice_pairs", cpu, native::int32, 2, volume,
          rulebook.in_rows());
  nb::gil_scoped_release released;
  rulebook.write_out_indices(out_indices.data_as<int32_t>());
  rulebook.write_padded(indice_pairs.data_as<int32_t>(), indice_num.data_as<int32_t>());
}

spconv_lite::Map make_map(const char* function, const Tensor& pair_in, const Tensor& pair_out,
                          const Tensor& block_offset, int64_t in_rows, int64_t out_rows, int64_t volume) {
  Dim pairs("P");
  const int64_t blocks = (out_rows + spconv_lite::block_rows - 1) / spconv_lite::block_rows;
  const bool flat = pair_in.ndim == 1 && pair_out.ndim == 1 && out_rows > 0;
  const bool ordered = flat && pair_in.shape[0] == pair_out.shape[0] + out_rows;
  if (ordered)
    require(pair_in, function, "pair_in", cpu, native::int32, pair_in.shape[0]);
  else
    require(pair_in, function, "pair_in", cpu, native::int32, pairs);
  require(pair_out, function, "pair_out", cpu, native::uint8, pairs);
  require(block_offset, function, "block_offset", cpu, native::int64, blocks * volume + 1);
  return {pair_in.data_as<int32_t>(),
          pair_out.data_as<uint8_t>(),
          block_offset.data_as<int64_t>(),
          pairs.length(),
          in_rows,
          out_rows,
          volume,
          ordered ? pair_in.data_as<int32_t>() + pairs.length() : nullptr};
}

void transpose_rulebook(const Tensor& pair_in, const Tensor& pair_out, const Tensor& block_offset,
                        int64_t in_rows, int64_t out_rows, int64_t volume, const Tensor& pair_in_t,
                        const Tensor& pair_out_t, const Tensor& block_offset_t, int threads) {
  const auto map = make_map("transpose_rulebook", pair_in, pair_out, block_offset, in_rows, out_rows, volume);
  const auto to =
      make_map("transpose_rulebook", pair_in_t, pair_out_t, block_offset_t, out_rows, in_rows, volume);
  native::demand(map.pairs == to.pairs,
                 [] { return std::string("transpose_rulebook: outputs have another length"); });
  nb::gil_scoped_release released;
  spconv_lite::transpose_rulebook(map.pair_in, map.pair_out, map.block_offset, map.pairs, in_rows, out_rows,
                                  volume, threads, pair_in_t.data_as<int32_t>(),
                                  pair_out_t.data_as<uint8_t>(), block_offset_t.data_as<int64_t>());
}

native::DType float_or_double(const Tensor& x) {
  return x.dtype == native::float64 ? native::float64 : native::float32;
}

struct Operands : spconv_lite::bindings::Sizes {
  native::DType dtype;
};

Operands check_operands(const char* function, const Tensor& x, const Tensor& weight, const Tensor& y,
                        int64_t groups) {
  const bool narrow = x.dtype == native::bfloat16 && spconv_lite::narrow::available();
  const native::DType dtype = narrow ? native::bfloat16 : float_or_double(x);
  return {spconv_lite::bindings::check_operands(function, x, weight, y, groups, cpu, dtype), dtype};
}

template <class Run>
void by_wide_dtype(native::DType dtype, Run&& run) {
  nb::gil_scoped_release released;
  if (dtype == native::float64)
    run(double{});
  else
    run(float{});
}

template <class Run>
void by_dtype(native::DType dtype, Run&& run) {
  if (!(dtype == native::bfloat16)) return by_wide_dtype(dtype, run);
  nb::gil_scoped_release released;
  run(spconv_lite::Bfloat16{});
}

void convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& pair_in,
              const Tensor& pair_out, const Tensor& block_offset, const Tensor& y, int64_t groups, int threads,
              const std::optional<Tensor>& scale, bool rectified) {
  const Operands op = check_operands("conv", x, weight, y, groups);
  const native::DType sums = op.dtype == native::bfloat16 ? native::float32 : op.dtype;
  if (bias) require(*bias, "conv", "bias", cpu, sums, op.out_channels);
  if (scale) require(*scale, "conv", "scale", cpu, sums, op.out_channels);
  native::demand(bias || !scale, [] { return std::string("conv: a scale comes with a bias"); });
  const auto map = make_map("conv", pair_in, pair_out, block_offset, op.in_rows, op.out_rows, op.volume);
  by_dtype(op.dtype, [&](auto zero) {
    using T = decltype(zero);
    using Sum = typename spconv_lite::SumType<T>::type;
    spconv_lite::convolve<T>(map, x.data_as<T>(), op.in_channels, weight.data_as<T>(),
                             {bias ? bias->data_as<Sum>() : nullptr, scale ? scale->data_as<Sum>() : nullptr,
                              rectified},
                             op.out_channels, groups, y.data_as<T>(), threads);
  });
}

// `map` maps output rows to input rows, or is the forward map of a symmetric rulebook (mirror).
void convolve_back(const Tensor& gradient, const Tensor& weight, const Tensor& pair_in,
                   const Tensor& pair_out, const Tensor& block_offset, bool mirror, const Tensor& x_gradient,
                   int64_t groups, int threads) {
  const Operands op = check_operands("conv_input_grad", x_gradient, weight, gradient, groups);
  const auto map =
      make_map("conv_input_grad", pair_in, pair_out, block_offset, op.out_rows, op.in_rows, op.volume);
  by_dtype(op.dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::convolve_back<T>(map, mirror, gradient.data_as<T>(), op.out_channels, weight.data_as<T>(),
                                  op.in_channels, groups, x_gradient.data_as<T>(), threads);
  });
}

void correlate(const Tensor& x, const Tensor& gradient, const Tensor& pair_in, const Tensor& pair_out,
               const Tensor& block_offset, const Tensor& weight_gradient, int64_t groups, int threads) {
  const Operands op = check_operands("conv_weight_grad", x, weight_gradient, gradient, groups);
  const auto map =
      make_map("conv_weight_grad", pair_in, pair_out, block_offset, op.in_rows, op.out_rows, op.volume);
  by_dtype(op.dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::correlate<T>(map, x.data_as<T>(), op.in_channels, gradient.data_as<T>(), op.out_channels,
                              groups, weight_gradient.data_as<T>(), threads);
  });
}

// Rows (N, C) beside a map; all of them of x's dtype.
int64_t require_rows(const char* function, const char* name, const Tensor& rows, native::DType dtype,
                     Dim& channels) {
  Dim n("N");
  require(rows, function, name, cpu, dtype, n, channels);
  return n.length();
}

void max_pool(const Tensor& x, const Tensor& pair_in, const Tensor& pair_out, const Tensor& block_offset,
              const Tensor& y, int64_t volume, double least, int threads) {
  const native::DType dtype = float_or_double(x);
  Dim channels("C");
  const int64_t in = require_rows("max_pool", "features", x, dtype, channels);
  const int64_t out = require_rows("max_pool", "output features", y, dtype, channels);
  const auto map = make_map("max_pool", pair_in, pair_out, block_offset, in, out, volume);
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::max_pool<T>(map, x.data_as<T>(), channels.length(), static_cast<T>(least), y.data_as<T>(),
                             threads);
  });
}

void select_sum(const Tensor& x, const Tensor& of_x, const Tensor& of_y, const Tensor& pair_in,
                const Tensor& pair_out, const Tensor& block_offset, const Tensor& y, int64_t volume,
                int threads) {
  const native::DType dtype = float_or_double(x);
  Dim channels("C");
  const int64_t in = require_rows("select_sum", "features", x, dtype, channels);
  const int64_t out = require_rows("select_sum", "output features", y, dtype, channels);
  require(of_x, "select_sum", "marks of the input", cpu, dtype, in, channels);
  require(of_y, "select_sum", "marks of the output", cpu, dtype, out, channels);
  const auto map = make_map("select_sum", pair_in, pair_out, block_offset, in, out, volume);
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::select_sum<T>(map, x.data_as<T>(), of_x.data_as<T>(), of_y.data_as<T>(), channels.length(),
                               y.data_as<T>(), threads);
  });
}

using Four = std::array<double, 4>;

spconv_lite::VoxelGrid make_grid(int64_t ndim, const Four& low, const Four& size, const Axes& cells) {
  native::demand(ndim >= 1 && ndim <= 4, [] { return std::string("PointToVoxel: 1 to 4 axes"); });
  spconv_lite::VoxelGrid grid{ndim, {}, {}, {}};
  for (size_t axis = 0; axis < 4; ++axis) {
    grid.low[axis] = low[axis];
    grid.size[axis] = size[axis];
    grid.cells[axis] = cells[axis];
  }
  return grid;
}

int64_t number_voxels(const Tensor& places, int64_t ndim, const Four& low, const Four& size,
                      const Axes& cells, int64_t most_voxels, const Tensor& voxel) {
  const native::DType dtype = float_or_double(places);
  Dim n("N"), columns("C");
  require(places, "PointToVoxel", "pc", cpu, dtype, n, columns);
  require(voxel, "PointToVoxel", "pc_voxel_id", cpu, native::int64, n);
  native::demand(columns.length() >= ndim, [] { return std::string("PointToVoxel: too few columns"); });
  const auto grid = make_grid(ndim, low, size, cells);
  int64_t found = 0;
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    found = spconv_lite::number_voxels<T>(places.data_as<T>(), n.length(), columns.length(), grid,
                                          most_voxels, voxel.data_as<int64_t>());
  });
  return found;
}

void list_voxels(const Tensor& places, int64_t ndim, const Four& low, const Four& size, const Axes& cells,
                 const Tensor& voxel, const Tensor& indices, const Tensor& number, const Tensor& rows) {
  const native::DType dtype = float_or_double(places);
  Dim n("N"), columns("C"), voxels("M"), points("P");
  require(places, "PointToVoxel", "pc", cpu, dtype, n, columns);
  require(voxel, "PointToVoxel", "pc_voxel_id", cpu, native::int64, n);
  require(indices, "PointToVoxel", "indices", cpu, native::int32, voxels, ndim);
  require(number, "PointToVoxel", "num_per_voxel", cpu, native::int32, voxels);
  require(rows, "PointToVoxel", "rows", cpu, native::int64, voxels, points);
  const auto grid = make_grid(ndim, low, size, cells);
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::list_voxels<T>(
        places.data_as<T>(), n.length(), columns.length(), grid, voxel.data_as<int64_t>(), voxels.length(),
        points.length(), indices.data_as<int32_t>(), number.data_as<int32_t>(), rows.data_as<int64_t>());
  });
}

// Both as bytes: (N, bytes of a point) and (places, bytes of a point).
void gather_points(const Tensor& points, const Tensor& rows, const Tensor& values) {
  Dim n("N"), bytes("B"), places("M * P");
  require(points, "PointToVoxel", "pc", cpu, native::uint8, n, bytes);
  require(rows, "PointToVoxel", "rows", cpu, native::int64, places);
  require(values, "PointToVoxel", "voxels", cpu, native::uint8, places, bytes);
  nb::gil_scoped_release released;
  spconv_lite::gather_points(points.data_as<uint8_t>(), bytes.length(), rows.data_as<int64_t>(),
                             places.length(), values.data_as<uint8_t>());
}

void fill_means(const Tensor& values, const Tensor& number) {
  const native::DType dtype = float_or_double(values);
  Dim voxels("M"), points("P"), channels("C");
  require(values, "PointToVoxel", "voxels", cpu, dtype, voxels, points, channels);
  require(number, "PointToVoxel", "num_per_voxel", cpu, native::int32, voxels);
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::fill_means<T>(values.data_as<T>(), number.data_as<int32_t>(), voxels.length(),
                               points.length(), channels.length());
  });
}

int64_t site_keys(const Tensor& indices, int64_t batch_size, const std::vector<int64_t>& shape,
                  const Tensor& keys) {
  Dim n("N");
  const int64_t ndim = static_cast<int64_t>(shape.size());
  require(indices, "site_keys", "indices", cpu, native::int32, n, ndim + 1);
  require(keys, "site_keys", "keys", cpu, native::int64, n);
  nb::gil_scoped_release released;
  return spconv_lite::site_keys(indices.data_as<int32_t>(), n.length(), ndim, batch_size, shape.data(),
                                keys.data_as<int64_t>());
}

bool sort_keys(const Tensor& keys, int64_t limit, const Tensor& sorted, const Tensor& order) {
  Dim n("N");
  require(keys, "sort_keys", "keys", cpu, native::int64, n);
  require(sorted, "sort_keys", "sorted", cpu, native::int64, n);
  require(order, "sort_keys", "order", cpu, native::int64, n);
  nb::gil_scoped_release released;
  return spconv_lite::sort_keys(keys.data_as<int64_t>(), n.length(), limit, sorted.data_as<int64_t>(),
                                order.data_as<int64_t>());
}

}  // namespace

NB_MODULE(_C, m) {
  native::register_errors();
  nb::class_<OwnedRulebook>(m, "Rulebook")
      .def_prop_ro("out_rows", [](const OwnedRulebook& self) { return self.rulebook.out_rows(); })
      .def_prop_ro("pairs", [](const OwnedRulebook& self) { return self.rulebook.pairs(); })
      .def_prop_ro("block_offsets", [](const OwnedRulebook& self) { return self.rulebook.block_offsets(); })
      .def("write_compact", &write_compact, "out_indices"_a.none(), "pair_in"_a, "pair_out"_a,
           "block_offset"_a)
      .def("write_padded", &write_padded);
  m.def("build_rulebook", &build_rulebook, nb::rv_policy::take_ownership);
  m.def("transpose_rulebook", &transpose_rulebook);
  m.def("convolve", &convolve, "x"_a, "weight"_a, "bias"_a.none(), "pair_in"_a, "pair_out"_a,
        "block_offset"_a, "y"_a, "groups"_a, "threads"_a, "scale"_a = nb::none(), "rectified"_a = false);
  m.def("convolve_back", &convolve_back);
  m.def("correlate", &correlate);
  m.def("max_pool", &max_pool);
  m.def("select_sum", &select_sum);
  m.def("number_voxels", &number_voxels);
  m.def("list_voxels", &list_voxels);
  m.def("gather_points", &gather_points);
  m.def("fill_means", &fill_means);
  m.def("site_keys", &site_keys);
  m.def("sort_keys", &sort_keys);
  m.def("multiplies_bfloat16", &spconv_lite::narrow::available);
  m.def("isa", [] { return native::name(native::isa()); });
  m.def("max_threads", [] { return native::max_threads(); });
#if WITH_CUDA
  m.attr("cuda_architectures") = NATIVE_CUDA_ARCHITECTURES;
  spconv_lite::bindings::bind_cuda(m);
#else
  m.attr("cuda_architectures") = "";
#endif
}
