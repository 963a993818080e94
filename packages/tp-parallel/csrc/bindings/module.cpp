// The private module: checks its tensors, unwraps them, calls the kernels. See ops.py for the doors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

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
  m.def("prefer_large_pages", &prefer_large_pages, nb::arg("t"));
#ifdef WITH_CUDA
  m.attr("cuda_architectures") = NATIVE_CUDA_ARCHITECTURES;
#else
  m.attr("cuda_architectures") = "";
#endif
  m.def("isa", [] { return std::string(native::name(native::isa())); });
}
