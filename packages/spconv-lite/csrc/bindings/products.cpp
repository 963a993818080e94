// Convolutions and pools over a rulebook.
#include <nanobind/stl/optional.h>

#include <optional>
#include <string>

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
  native::DType dtype;
};

Operands check_cpu_operands(const char* function, const Tensor& x, const Tensor& weight, const Tensor& y,
                            int64_t groups) {
  const bool narrow = x.dtype == native::bfloat16 && narrow::available();
  const native::DType dtype = narrow ? native::bfloat16 : float_or_double(x);
  return {check_operands(function, x, weight, y, groups, cpu, dtype), dtype};
}

template <class Run>
void by_dtype(native::DType dtype, Run&& run) {
  if (!(dtype == native::bfloat16)) return by_wide_dtype(dtype, run);
  nb::gil_scoped_release released;
  run(Bfloat16{});
}

void convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& pair_in,
              const Tensor& pair_out, const Tensor& block_offset, const Tensor& y, int64_t groups,
              int threads, const std::optional<Tensor>& scale, bool rectified) {
  const Operands op = check_cpu_operands("conv", x, weight, y, groups);
  const native::DType sums = op.dtype == native::bfloat16 ? native::float32 : op.dtype;
  if (bias) require(*bias, "conv", "bias", cpu, sums, op.out_channels);
  if (scale) require(*scale, "conv", "scale", cpu, sums, op.out_channels);
  native::demand(bias || !scale, [] { return std::string("conv: a scale comes with a bias"); });
  const auto map = make_map("conv", pair_in, pair_out, block_offset, op.in_rows, op.out_rows, op.volume);
  by_dtype(op.dtype, [&](auto zero) {
    using T = decltype(zero);
    using Sum = typename spconv_lite::SumType<T>::type;
    spconv_lite::convolve<T>(
        map, x.data_as<T>(), op.in_channels, weight.data_as<T>(),
        {bias ? bias->data_as<Sum>() : nullptr, scale ? scale->data_as<Sum>() : nullptr, rectified},
        op.out_channels, groups, y.data_as<T>(), threads);
  });
}

// `map` maps output rows to input rows, or is the forward map of a symmetric rulebook (mirror).
void convolve_back(const Tensor& gradient, const Tensor& weight, const Tensor& pair_in,
                   const Tensor& pair_out, const Tensor& block_offset, bool mirror, const Tensor& x_gradient,
                   int64_t groups, int threads) {
  const Operands op = check_cpu_operands("conv_input_grad", x_gradient, weight, gradient, groups);
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
  const Operands op = check_cpu_operands("conv_weight_grad", x, weight_gradient, gradient, groups);
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
