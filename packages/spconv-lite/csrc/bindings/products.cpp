// Convolutions and pools over a rulebook.
#include <nanobind/stl/optional.h>

#include <optional>
#include <string>
#include <type_traits>

#include <bindings/cpu.h>
#include <bindings/stages.h>
#include <cpu/narrow.h>

namespace nb = nanobind;
using namespace nb::literals;
using native::Dim;
using native::require;
using native::operator==;  // the types live in native::dlpack
using native::Tensor;

namespace spconv_lite::bindings {
namespace {

struct Operands : Sizes {
  DTypes dtypes;
};

// All of one dtype; but bfloat16 features go with float32 weights, which then is computed with, and make a
// bfloat16 result, as float32 features may. Without multiplication of bfloat16 that is the only way.
Operands check_cpu_operands(const char* function, const Tensor& x, const Tensor& weight, const Tensor& y,
                            int64_t groups) {
  const bool narrow = x.dtype == native::bfloat16;
  DTypes dtypes{x.dtype, x.dtype, x.dtype};
  if (!narrow) dtypes.x = dtypes.weight = dtypes.y = float_or_double(x);
  if (weight.dtype == native::float32 && narrow) dtypes.weight = native::float32;
  if (dtypes.weight == native::float32 && y.dtype == native::bfloat16) dtypes.y = native::bfloat16;
  if (narrow && dtypes.weight == native::bfloat16 && !narrow::available())
    dtypes = {native::float32, native::float32, native::float32};  // for require to refuse
  return {check_operands(function, x, weight, y, groups, cpu, dtypes), dtypes};
}

void require_one_dtype(const char* function, const DTypes& dtypes) {
  native::demand(dtypes.x == dtypes.y, [&] {
    return std::string(function) + ": features and gradient must be of one dtype, or both of bfloat16";
  });
}

// Calls run(T, X), the types of the weight and of the features, without the GIL.
template <class Run>
void by_dtypes(const DTypes& dtypes, Run&& run) {
  nb::gil_scoped_release released;
  if (dtypes.weight == native::float64)
    run(double{}, double{});
  else if (dtypes.weight == native::bfloat16)
    run(Bfloat16{}, Bfloat16{});
  else if (dtypes.x == native::bfloat16)
    run(float{}, Bfloat16{});
  else
    run(float{}, float{});
}

void convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& pair_in,
              const Tensor& pair_out, const Tensor& block_offset, const Tensor& y, int64_t groups,
              int threads, const std::optional<Tensor>& scale, bool rectified) {
  const Operands op = check_cpu_operands("conv", x, weight, y, groups);
  const native::DType sums = op.dtypes.weight == native::bfloat16 ? native::float32 : op.dtypes.weight;
  if (bias) require(*bias, "conv", "bias", cpu, sums, op.out_channels);
  if (scale) require(*scale, "conv", "scale", cpu, sums, op.out_channels);
  native::demand(bias || !scale, [] { return std::string("conv: a scale comes with a bias"); });
  const auto map = make_map("conv", pair_in, pair_out, block_offset, op.in_rows, op.out_rows, op.volume);
  by_dtypes(op.dtypes, [&](auto weight_type, auto x_type) {
    using T = decltype(weight_type);
    using X = decltype(x_type);
    using Sum = typename spconv_lite::SumType<T>::type;
    const auto run = [&](auto* result) {
      spconv_lite::convolve<T>(
          map, x.data_as<X>(), op.in_channels, weight.data_as<T>(),
          {bias ? bias->data_as<Sum>() : nullptr, scale ? scale->data_as<Sum>() : nullptr, rectified},
          op.out_channels, groups, result, threads);
    };
    if constexpr (std::is_same_v<T, float>)
      if (op.dtypes.y == native::bfloat16) return run(y.data_as<Bfloat16>());
    if constexpr (std::is_same_v<T, X>) run(y.data_as<T>());
  });
}

// `map` maps output rows to input rows, or is the forward map of a symmetric rulebook (mirror).
void convolve_back(const Tensor& gradient, const Tensor& weight, const Tensor& pair_in,
                   const Tensor& pair_out, const Tensor& block_offset, bool mirror, const Tensor& x_gradient,
                   int64_t groups, int threads) {
  const Operands op = check_cpu_operands("conv_input_grad", x_gradient, weight, gradient, groups);
  require_one_dtype("conv_input_grad", op.dtypes);
  const auto map =
      make_map("conv_input_grad", pair_in, pair_out, block_offset, op.out_rows, op.in_rows, op.volume);
  by_dtypes(op.dtypes, [&](auto weight_type, auto x_type) {
    using T = decltype(weight_type);
    using X = decltype(x_type);
    spconv_lite::convolve_back<T>(map, mirror, gradient.data_as<X>(), op.out_channels, weight.data_as<T>(),
                                  op.in_channels, groups, x_gradient.data_as<X>(), threads);
  });
}

void correlate(const Tensor& x, const Tensor& gradient, const Tensor& pair_in, const Tensor& pair_out,
               const Tensor& block_offset, const Tensor& weight_gradient, int64_t groups, int threads) {
  const Operands op = check_cpu_operands("conv_weight_grad", x, weight_gradient, gradient, groups);
  require_one_dtype("conv_weight_grad", op.dtypes);
  const auto map =
      make_map("conv_weight_grad", pair_in, pair_out, block_offset, op.in_rows, op.out_rows, op.volume);
  by_dtypes(op.dtypes, [&](auto weight_type, auto x_type) {
    using T = decltype(weight_type);
    using X = decltype(x_type);
    spconv_lite::correlate<T>(map, x.data_as<X>(), op.in_channels, gradient.data_as<X>(), op.out_channels,
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

}  // namespace

void bind_products(nb::module_& m) {
  m.def("convolve", &bindings::convolve, "x"_a, "weight"_a, "bias"_a.none(), "pair_in"_a, "pair_out"_a,
        "block_offset"_a, "y"_a, "groups"_a, "threads"_a, "scale"_a = nb::none(), "rectified"_a = false);
  m.def("convolve_back", &bindings::convolve_back);
  m.def("correlate", &bindings::correlate);
  m.def("max_pool", &bindings::max_pool);
  m.def("select_sum", &bindings::select_sum);
  m.def("multiplies_bfloat16", &narrow::available);
}

}  // namespace spconv_lite::bindings
