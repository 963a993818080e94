// The private module: checks its tensors, unwraps them, calls the kernels. See ops.py for the doors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "cpu/layers.h"
#include "cpu/loss.h"
#include "native/caster.h"
#include "native/check.h"
#include "native/dispatch.h"
#include "native/on_device.h"
#ifdef WITH_CUDA
#include "cuda/loss.h"
#endif

namespace nb = nanobind;
using native::Dim;
using native::Tensor;
using native::operator==;
using namespace tp_parallel;

namespace {

LossShape shape_of(const char* function, const Tensor& logits, const Tensor& target, int64_t start,
                   int64_t valid, int64_t ignore_index) {
  if (logits.ndim != 2 || !logits.is_contiguous())
    throw native::ValueError(std::string(function) + ": logits must be contiguous (rows, columns), got " +
                             native::shape_text(logits));
  native::require(target, function, "target", logits.device.type, native::int64, logits.size(0));
  if (valid < 0 || valid > logits.size(1))
    throw native::ValueError(std::string(function) + ": valid must be in [0, " +
                             std::to_string(logits.size(1)) + "], got " + std::to_string(valid));
  return {logits.size(0), logits.size(1), valid, start, ignore_index, target.data_as<const int64_t>()};
}

[[noreturn]] void no_kernel(const char* function, const Tensor& logits) {
  throw native::TypeError(std::string(function) + ": no kernel for logits of " + native::name(logits.dtype) +
                          " on " + native::device_name(logits) + " in this build");
}

void loss_statistics(const Tensor& logits, const Tensor& target, int64_t start, int64_t valid,
                     int64_t ignore_index, bool with_sum, const Tensor& out, int threads) {
  const char* name = "loss_statistics";
  const LossShape s = shape_of(name, logits, target, start, valid, ignore_index);
  const bool wide = logits.dtype == native::float64;
  native::require(out, name, "out", logits.device.type, wide ? native::float64 : native::float32, s.rows,
                  statistics_count);
  nb::gil_scoped_release released;
#ifdef WITH_CUDA
  const native::OnDevice on(name, logits, target, out);
  if (logits.is_cuda() && logits.dtype == native::float32)
    return cuda::statistics(logits.data_as<const float>(), s, with_sum, out.data_as<float>(), on.stream());
  if (logits.is_cuda() && logits.dtype == native::bfloat16)
    return cuda::statistics(logits.data_as<const BFloat16>(), s, with_sum, out.data_as<float>(), on.stream());
#endif
  if (!logits.is_cpu()) no_kernel(name, logits);
  if (logits.dtype == native::float32)
    NATIVE_CALL_ISA(statistics_float)(logits.data_as<const float>(), s, with_sum, out.data_as<float>(),
                                      threads);
  else if (logits.dtype == native::bfloat16)
    NATIVE_CALL_ISA(statistics_bfloat16)(logits.data_as<const BFloat16>(), s, with_sum, out.data_as<float>(),
                                         threads);
  else if (wide)
    NATIVE_CALL_ISA(statistics_double)(logits.data_as<const double>(), s, with_sum, out.data_as<double>(),
                                       threads);
  else
    no_kernel(name, logits);
}

void loss_gradient(const Tensor& logits, const Tensor& target, const Tensor& lse, const Tensor& grad,
                   int64_t start, int64_t valid, int64_t ignore_index, double smoothing, double z_loss,
                   int64_t classes, const Tensor& out, int threads) {
  const char* name = "loss_gradient";
  const LossShape s = shape_of(name, logits, target, start, valid, ignore_index);
  const LossGradient g{smoothing, z_loss, classes};
  const auto wide = logits.dtype == native::float64 ? native::float64 : native::float32;
  native::require(lse, name, "lse", logits.device.type, wide, s.rows);
  native::require(grad, name, "grad", logits.device.type, wide, s.rows);
  native::require(out, name, "out", logits.device.type, logits.dtype, s.rows, s.columns);
  nb::gil_scoped_release released;
#ifdef WITH_CUDA
  const native::OnDevice on(name, logits, target, lse, grad, out);
  if (logits.is_cuda() && logits.dtype == native::float32)
    return cuda::gradient(logits.data_as<const float>(), s, g, lse.data_as<const float>(),
                          grad.data_as<const float>(), out.data_as<float>(), on.stream());
  if (logits.is_cuda() && logits.dtype == native::bfloat16)
    return cuda::gradient(logits.data_as<const BFloat16>(), s, g, lse.data_as<const float>(),
                          grad.data_as<const float>(), out.data_as<BFloat16>(), on.stream());
#endif
  if (!logits.is_cpu()) no_kernel(name, logits);
  if (logits.dtype == native::float32)
    NATIVE_CALL_ISA(gradient_float)(logits.data_as<const float>(), s, g, lse.data_as<const float>(),
                                    grad.data_as<const float>(), out.data_as<float>(), threads);
  else if (logits.dtype == native::bfloat16)
    NATIVE_CALL_ISA(gradient_bfloat16)(logits.data_as<const BFloat16>(), s, g, lse.data_as<const float>(),
                                       grad.data_as<const float>(), out.data_as<BFloat16>(), threads);
  else if (logits.dtype == native::float64)
    NATIVE_CALL_ISA(gradient_double)(logits.data_as<const double>(), s, g, lse.data_as<const double>(),
                                     grad.data_as<const double>(), out.data_as<double>(), threads);
  else
    no_kernel(name, logits);
}

// Calls run(T()) for the type of `t`, which must be on the CPU.
template <class Run>
void with_type(const char* function, const Tensor& t, Run&& run) {
  if (!t.is_cpu()) no_kernel(function, t);
  nb::gil_scoped_release released;
  if (t.dtype == native::float32) return run(float());
  if (t.dtype == native::bfloat16) return run(BFloat16());
  if (t.dtype == native::float64) return run(double());
  no_kernel(function, t);
}

native::DType wide_type(const Tensor& t) {
  return t.dtype == native::float64 ? native::float64 : native::float32;
}

NormShape norm_shape(const char* function, const Tensor& x, const Tensor& weight, const Tensor& scale,
                     double eps, double shift) {
  Dim rows("rows"), features("features");
  native::require(x, function, "x", native::dlpack::cpu, x.dtype, rows, features);
  native::require(weight, function, "weight", native::dlpack::cpu, x.dtype, features);
  native::require(scale, function, "scale", native::dlpack::cpu, wide_type(x), rows);
  return {rows.length(), features.length(), eps, shift};
}

void rms_norm(const Tensor& x, const Tensor& weight, double eps, double shift, const Tensor& out,
              const Tensor& scale, int threads) {
  const char* name = "rms_norm";
  const NormShape s = norm_shape(name, x, weight, scale, eps, shift);
  native::require(out, name, "out", native::dlpack::cpu, x.dtype, s.rows, s.features);
  with_type(name, x, [&](auto type) {
    using T = decltype(type);
    NATIVE_CALL_ISA(rms_norm<T>)(x.data_as<const T>(), weight.data_as<const T>(), s, out.data_as<T>(),
                                 scale.data_as<Wide<T>>(), threads);
  });
}

void rms_norm_gradient(const Tensor& x, const Tensor& weight, const Tensor& scale, const Tensor& grad,
                       double shift, const Tensor& out, const Tensor& weight_out, int threads) {
  const char* name = "rms_norm_gradient";
  const NormShape s = norm_shape(name, x, weight, scale, 0.0, shift);
  native::require(grad, name, "grad", native::dlpack::cpu, x.dtype, s.rows, s.features);
  native::require(out, name, "out", native::dlpack::cpu, x.dtype, s.rows, s.features);
  native::require(weight_out, name, "weight_out", native::dlpack::cpu, x.dtype, s.features);
  with_type(name, x, [&](auto type) {
    using T = decltype(type);
    NATIVE_CALL_ISA(rms_norm_gradient<T>)(x.data_as<const T>(), weight.data_as<const T>(),
                                          scale.data_as<const Wide<T>>(), grad.data_as<const T>(), s,
                                          out.data_as<T>(), weight_out.data_as<T>(), threads);
  });
}

void gate(const Tensor& x, bool gelu, const Tensor& out, int threads) {
  const char* name = "gate";
  Dim rows("rows"), inner("inner");
  native::require(out, name, "out", native::dlpack::cpu, x.dtype, rows, inner);
  native::require(x, name, "x", native::dlpack::cpu, x.dtype, rows, 2 * inner.length());
  with_type(name, x, [&](auto type) {
    using T = decltype(type);
    NATIVE_CALL_ISA(gate<T>)(x.data_as<const T>(), {rows.length(), inner.length(), gelu}, out.data_as<T>(),
                             threads);
  });
}

void gate_gradient(const Tensor& x, const Tensor& grad, bool gelu, const Tensor& out, int threads) {
  const char* name = "gate_gradient";
  Dim rows("rows"), inner("inner");
  native::require(grad, name, "grad", native::dlpack::cpu, x.dtype, rows, inner);
  native::require(x, name, "x", native::dlpack::cpu, x.dtype, rows, 2 * inner.length());
  native::require(out, name, "out", native::dlpack::cpu, x.dtype, rows, 2 * inner.length());
  with_type(name, x, [&](auto type) {
    using T = decltype(type);
    NATIVE_CALL_ISA(gate_gradient<T>)(x.data_as<const T>(), grad.data_as<const T>(),
                                      {rows.length(), inner.length(), gelu}, out.data_as<T>(), threads);
  });
}

HeadShape head_shape(const char* function, const Tensor& qkv, const Tensor& table, const Tensor& q,
                     const Tensor& k, const Tensor& v) {
  Dim tokens("tokens"), groups("groups"), queries("queries"), width("width"), places("places"), half("half");
  native::require(q, function, "q", native::dlpack::cpu, qkv.dtype, tokens, groups, queries, width);
  native::require(k, function, "k", native::dlpack::cpu, qkv.dtype, tokens, groups, width);
  native::require(v, function, "v", native::dlpack::cpu, qkv.dtype, tokens, groups, width);
  native::require(qkv, function, "qkv", native::dlpack::cpu, qkv.dtype, tokens, groups, queries.length() + 2,
                  width);
  native::require(table, function, "table", native::dlpack::cpu, qkv.dtype, 2, places, half);
  if (2 * half.length() > width.length() || places.length() < 1)
    throw native::ValueError(std::string(function) + ": table must be (2, places, at most width / 2), got " +
                             native::shape_text(table));
  return {tokens.length(), groups.length(), queries.length(), width.length(), half.length(), places.length()};
}

void split_heads(const Tensor& qkv, const Tensor& table, const Tensor& q, const Tensor& k, const Tensor& v,
                 int threads) {
  const HeadShape s = head_shape("split_heads", qkv, table, q, k, v);
  with_type("split_heads", qkv, [&](auto type) {
    using T = decltype(type);
    NATIVE_CALL_ISA(split_heads<T>)(qkv.data_as<const T>(), table.data_as<const T>(), s, q.data_as<T>(),
                                    k.data_as<T>(), v.data_as<T>(), threads);
  });
}

void join_heads(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& table, const Tensor& qkv,
                int threads) {
  const HeadShape s = head_shape("join_heads", qkv, table, q, k, v);
  with_type("join_heads", qkv, [&](auto type) {
    using T = decltype(type);
    NATIVE_CALL_ISA(join_heads<T>)(q.data_as<const T>(), k.data_as<const T>(), v.data_as<const T>(),
                                   table.data_as<const T>(), s, qkv.data_as<T>(), threads);
  });
}

// Advice for a fresh tensor that is about to be written once from end to end: 2 MiB pages, where the
// system leaves the choice to the program, cost far fewer faults.
void prefer_large_pages(const Tensor& t) {
#ifdef __linux__
  constexpr uintptr_t page = 4096;
  const auto first = reinterpret_cast<uintptr_t>(t.data_as<char>());
  const auto start = (first + page - 1) / page * page;
  const auto end = (first + t.numel() * t.dtype.bits / 8) / page * page;
  if (t.is_cpu() && end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)t;
#endif
}

}  // namespace

NB_MODULE(_C, m) {
  native::register_errors();
  m.def("loss_statistics", &loss_statistics, nb::arg("logits"), nb::arg("target"), nb::arg("start"),
        nb::arg("valid"), nb::arg("ignore_index"), nb::arg("with_sum"), nb::arg("out"), nb::arg("threads"));
  m.def("loss_gradient", &loss_gradient, nb::arg("logits"), nb::arg("target"), nb::arg("lse"),
        nb::arg("grad"), nb::arg("start"), nb::arg("valid"), nb::arg("ignore_index"), nb::arg("smoothing"),
        nb::arg("z_loss"), nb::arg("classes"), nb::arg("out"), nb::arg("threads"));
  m.def("rms_norm", &rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("shift"),
        nb::arg("out"), nb::arg("scale"), nb::arg("threads"));
  m.def("rms_norm_gradient", &rms_norm_gradient, nb::arg("x"), nb::arg("weight"), nb::arg("scale"),
        nb::arg("grad"), nb::arg("shift"), nb::arg("out"), nb::arg("weight_out"), nb::arg("threads"));
  m.def("gate", &gate, nb::arg("x"), nb::arg("gelu"), nb::arg("out"), nb::arg("threads"));
  m.def("gate_gradient", &gate_gradient, nb::arg("x"), nb::arg("grad"), nb::arg("gelu"), nb::arg("out"),
        nb::arg("threads"));
  m.def("split_heads", &split_heads, nb::arg("qkv"), nb::arg("table"), nb::arg("q"), nb::arg("k"),
        nb::arg("v"), nb::arg("threads"));
  m.def("join_heads", &join_heads, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("table"), nb::arg("qkv"),
        nb::arg("threads"));
  m.def("prefer_large_pages", &prefer_large_pages, nb::arg("t"));
#ifdef WITH_CUDA
  m.attr("cuda_architectures") = NATIVE_CUDA_ARCHITECTURES;
#else
  m.attr("cuda_architectures") = "";
#endif
  m.def("isa", [] { return std::string(native::name(native::isa())); });
}
