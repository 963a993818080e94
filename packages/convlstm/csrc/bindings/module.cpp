// The private module: checks its tensors, unwraps them, calls the kernels. See ops.py for the doors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "cpu/convolution.h"
#include "cpu/gates.h"
#include "cpu/steps.h"
#include "cpu/steps_backward.h"
#include "cpu/weight_gradient.h"
#include "native/caster.h"
#include "native/check.h"
#include "native/dispatch.h"
#include "native/on_device.h"
#include "native/parallel.h"
#ifdef WITH_CUDA
#include "cuda/gates.h"
#endif

namespace nb = nanobind;
using native::Dim;
using native::Tensor;
using native::operator==;
using native::operator!=;
using Maybe = std::optional<Tensor>;
using namespace convlstm;

namespace {

template <class T>
T* data_of(const Maybe& t) {
  return t ? t->data_as<T>() : nullptr;
}

// The tensors of a step are contiguous: (pixels, F) or (pixels, 4F) after their leading axes.
void require_flat(const Tensor& t, const Tensor& like, const char* function, const char* argument,
                  int64_t count) {
  if (t.dtype != like.dtype || t.device.type != like.device.type)
    throw native::TypeError(std::string(function) + ": " + argument + " must be " + native::name(like.dtype) +
                            " on " + native::device_name(like) + ", got " + native::name(t.dtype) + " on " +
                            native::device_name(t));
  if (!t.is_contiguous() || t.numel() != count)
    throw native::ValueError(std::string(function) + ": " + argument + " must be contiguous with " +
                             std::to_string(count) + " elements, got " +
                             (t.is_contiguous() ? "" : "non-contiguous ") + native::shape_text(t));
}

void require_flat(const Maybe& t, const Tensor& like, const char* function, const char* argument,
                  int64_t count) {
  if (t) require_flat(*t, like, function, argument, count);
}

int64_t sequences_of(const Maybe& valid, const Tensor& like, const char* function) {
  if (!valid) return 1;
  if (valid->dtype != native::boolean || valid->device.type != like.device.type || valid->ndim != 1 ||
      !valid->is_contiguous() || (valid->size(0) == 0 && like.numel() > 0))
    throw native::ValueError(std::string(function) + ": valid must be contiguous bool of shape (B,)");
  return std::max<int64_t>(1, valid->size(0));
}

template <class T>
void forward(const Tensor& pre, const Maybe& pre2, const Maybe& bias, const Maybe& peephole,
             const Maybe& valid, const Maybe& h_before, const Tensor& c_before, const Maybe& gates,
             const Tensor& c, const Tensor& h, int activation, int recurrent, int threads) {
  const char* name = "gates_forward";
  const int64_t channels = c.size(c.ndim - 1), states = c.numel(), b = sequences_of(valid, c, name);
  require_flat(c, c, name, "c", states);
  require_flat(pre, c, name, "pre", 4 * states);
  require_flat(pre2, c, name, "pre2", 4 * states);
  require_flat(bias, c, name, "bias", 4 * channels);
  require_flat(peephole, c, name, "peephole", 3 * channels);
  require_flat(h_before, c, name, "h_before", states);
  require_flat(c_before, c, name, "c_before", states);
  require_flat(gates, c, name, "gates", 4 * states);
  require_flat(h, c, name, "h", states);
  const int64_t pixels = channels ? states / channels : 0;
  ForwardStep<T> s{pixels,
                   channels,
                   std::max<int64_t>(1, pixels / b),
                   pre.data_as<T>(),
                   data_of<const T>(pre2),
                   data_of<const T>(bias),
                   data_of<const T>(peephole),
                   data_of<const uint8_t>(valid),
                   data_of<const T>(h_before),
                   c_before.data_as<const T>(),
                   data_of<T>(gates),
                   c.data_as<T>(),
                   h.data_as<T>()};
  const auto a = static_cast<Activation>(activation), r = static_cast<Activation>(recurrent);
  nb::gil_scoped_release released;
  if (c.is_cpu()) {
    if constexpr (std::is_same_v<T, float>)
      return NATIVE_CALL_ISA(gates_forward_float)(s, a, r, threads);
    else
      return NATIVE_CALL_ISA(gates_forward_double)(s, a, r, threads);
  }
#ifdef WITH_CUDA
  if constexpr (std::is_same_v<T, float>)
    if (c.is_cuda()) {
      const native::OnDevice on(name, c, pre, pre2, bias, peephole, valid, h_before, c_before, gates, h);
      return cuda::gates_forward(s, a, r, on.stream());
    }
#endif
  throw native::TypeError("gates_forward: no kernel for " + native::name(c.dtype) + " on " +
                          native::device_name(c) + " in this build");
}

template <class T>
void backward(const Tensor& gates, const Tensor& c_before, const Tensor& c, const Maybe& dh, const Maybe& dh2,
              const Maybe& peephole, const Maybe& valid, const Tensor& dc, const Tensor& d_pre,
              int activation, int recurrent, int threads) {
  const char* name = "gates_backward";
  const int64_t channels = c.size(c.ndim - 1), states = c.numel(), b = sequences_of(valid, c, name);
  require_flat(c, c, name, "c", states);
  require_flat(gates, c, name, "gates", 4 * states);
  require_flat(c_before, c, name, "c_before", states);
  require_flat(dh, c, name, "dh", states);
  require_flat(dh2, c, name, "dh2", states);
  require_flat(peephole, c, name, "peephole", 3 * channels);
  require_flat(dc, c, name, "dc", states);
  require_flat(d_pre, c, name, "d_pre", 4 * states);
  const int64_t pixels = channels ? states / channels : 0;
  BackwardStep<T> s{pixels,
                    channels,
                    std::max<int64_t>(1, pixels / b),
                    gates.data_as<const T>(),
                    c_before.data_as<const T>(),
                    c.data_as<const T>(),
                    data_of<const T>(dh),
                    data_of<const T>(dh2),
                    data_of<const T>(peephole),
                    data_of<const uint8_t>(valid),
                    dc.data_as<T>(),
                    d_pre.data_as<T>()};
  const auto a = static_cast<Activation>(activation), r = static_cast<Activation>(recurrent);
  nb::gil_scoped_release released;
  if (c.is_cpu()) {
    if constexpr (std::is_same_v<T, float>)
      return NATIVE_CALL_ISA(gates_backward_float)(s, a, r, threads);
    else
      return NATIVE_CALL_ISA(gates_backward_double)(s, a, r, threads);
  }
#ifdef WITH_CUDA
  if constexpr (std::is_same_v<T, float>)
    if (c.is_cuda()) {
      const native::OnDevice on(name, c, gates, c_before, dh, dh2, peephole, valid, dc, d_pre);
      return cuda::gates_backward(s, a, r, on.stream());
    }
#endif
  throw native::TypeError("gates_backward: no kernel for " + native::name(c.dtype) + " on " +
                          native::device_name(c) + " in this build");
}

template <class T>
void cell_state_of(const Tensor& gates, const Tensor& c_before, const Maybe& valid, const Tensor& c,
                   int threads) {
  const char* name = "cell_state";
  const int64_t channels = c.size(c.ndim - 1), states = c.numel(), b = sequences_of(valid, c, name);
  require_flat(c, c, name, "c", states);
  require_flat(gates, c, name, "gates", 4 * states);
  require_flat(c_before, c, name, "c_before", states);
  native::demand(c.is_cpu(), [] { return "cell_state: the tensors must be on the CPU"; });
  const int64_t pixels = channels ? states / channels : 0;
  const CellStep<T> s{pixels,
                      channels,
                      std::max<int64_t>(1, pixels / b),
                      gates.data_as<const T>(),
                      c_before.data_as<const T>(),
                      data_of<const uint8_t>(valid),
                      c.data_as<T>()};
  nb::gil_scoped_release released;
  if constexpr (std::is_same_v<T, float>)
    NATIVE_CALL_ISA(cell_state_float)(s, threads);
  else
    NATIVE_CALL_ISA(cell_state_double)(s, threads);
}

void cell_state_any(const Tensor& gates, const Tensor& c_before, const Maybe& valid, const Tensor& c,
                    int threads) {
  if (c.dtype == native::float32) return cell_state_of<float>(gates, c_before, valid, c, threads);
  if (c.dtype == native::float64) return cell_state_of<double>(gates, c_before, valid, c, threads);
  throw native::TypeError("cell_state: c must be float32 or float64, got " + native::name(c.dtype));
}

template <class... A>
void gates_forward_any(const Tensor& pre, A... rest) {
  if (pre.dtype == native::float32) return forward<float>(pre, rest...);
  if (pre.dtype == native::float64) return forward<double>(pre, rest...);
  throw native::TypeError("gates_forward: pre must be float32 or float64, got " + native::name(pre.dtype));
}

template <class... A>
void gates_backward_any(const Tensor& gates, A... rest) {
  if (gates.dtype == native::float32) return backward<float>(gates, rest...);
  if (gates.dtype == native::float64) return backward<double>(gates, rest...);
  throw native::TypeError("gates_backward: gates must be float32 or float64, got " +
                          native::name(gates.dtype));
}

// (out, part) of a Tile.
using Sides = std::pair<int64_t, int64_t>;

std::string text(const Sides& s) {
  return "(" + std::to_string(s.first) + ", " + std::to_string(s.second) + ")";
}

Tile tile_of(const Sides& s, const char* function, bool low = false) {
  const Tile tile{s.first, s.second};
  native::demand(tile.is_known(low), [&] {
    return std::string(function) + ": tile must be (1, 1), (2, 3)" +
           (low ? " for bfloat16" : ", (4, 3), (4, 5) or (2, 7)") + ", got " + text(s);
  });
  return tile;
}

void weight_gradient_any(const Maybe& x, const Maybe& first2, const Maybe& x2, const Tensor& d_out,
                         const Maybe& d_weight, const Maybe& d_weight2, const Maybe& d_bias, int64_t top,
                         int64_t left, Sides sides, int threads) {
  const char* name = "weight_gradient";
  const auto cpu = native::dlpack::cpu;
  const auto f32 = native::float32;
  Dim n("N"), c("C"), c2("C2"), k("K"), h("H"), w("W"), ho("out H"), wo("out W"), kh("kernel H"),
      kw("kernel W");
  Dim first_frames("first N");
  native::require(d_out, name, "d_out", cpu, f32, n, ho, wo, k);
  native::demand(x.has_value() == d_weight.has_value() && first2.has_value() == d_weight2.has_value() &&
                     first2.has_value() == x2.has_value() && (x || x2),
                 [] { return "weight_gradient: each input goes with its d_weight"; });
  if (x) {
    native::require(*x, name, "x", cpu, f32, n, h, w, c);
    native::require(*d_weight, name, "d_weight", cpu, f32, k, c, kh, kw);
  }
  if (x2) {
    native::require(*first2, name, "first2", cpu, f32, first_frames, h, w, c2);
    native::demand(first_frames.length() <= n.length(),
                   [] { return "weight_gradient: first2 must not have more frames than d_out"; });
    native::require(*x2, name, "x2", cpu, f32, n.length() - first_frames.length(), h, w, c2);
    native::require(*d_weight2, name, "d_weight2", cpu, f32, k, c2, kh, kw);
  }
  if (d_bias) native::require(*d_bias, name, "d_bias", cpu, f32, k);
  native::demand(top >= 0 && left >= 0 && top < kh.length() && left < kw.length(),
                 [] { return "weight_gradient: top and left must lie in the kernel"; });
  const Tile tile = tile_of(sides, name);
  native::demand(!tile.winograd() || (ho.length() == h.length() && wo.length() == w.length()), [&] {
    return "weight_gradient: tile must be (1, 1) where d_out has not the size of the input; got " +
           text(sides);
  });
  const WeightGradient g{n.length(),
                         h.length(),
                         w.length(),
                         x ? c.length() : 0,
                         x2 ? c2.length() : 0,
                         ho.length(),
                         wo.length(),
                         k.length(),
                         kh.length(),
                         kw.length(),
                         top,
                         left,
                         tile,
                         data_of<const float>(x),
                         x2 ? first_frames.length() : 0,
                         data_of<const float>(first2),
                         data_of<const float>(x2),
                         d_out.data_as<const float>(),
                         data_of<float>(d_weight),
                         data_of<float>(d_weight2),
                         data_of<float>(d_bias)};
  nb::gil_scoped_release released;
  NATIVE_CALL_ISA(weight_gradient)(g, threads);
}

template <class E>
constexpr bool is_low = sizeof(E) == 2;

// How a sequence is computed: what is no tensor.
struct Plan {
  std::pair<int64_t, int64_t> before;  // zeros before the first row and column
  std::pair<int, int> activations;     // codes of activation and recurrent activation
  Sides tile;
  int threads;

  Plan(std::pair<int64_t, int64_t> zeros, std::pair<int, int> codes, Sides sides, int workers)
      : before(zeros), activations(codes), tile(sides), threads(workers) {
    tile_of(sides, "Plan");
  }

  Geometry geometry(const char* function, const Dim& t, const Dim& n, const Dim& height, const Dim& width,
                    int64_t channels, const Dim& f, const Dim& kh, const Dim& kw) const {
    const auto [top, left] = before;
    native::demand(top >= 0 && left >= 0 && top < kh.length() && left < kw.length(),
                   [&] { return std::string(function) + ": before must lie in the kernel"; });
    return {t.length(),
            n.length(),
            height.length(),
            width.length(),
            channels,
            f.length(),
            kh.length(),
            kw.length(),
            top,
            left,
            {tile.first, tile.second},
            static_cast<Activation>(activations.first),
            static_cast<Activation>(activations.second)};
  }
};

// E of the packed weights: the type of input and state.
template <class E>
void run_steps_of(const Plan& plan, const Maybe& x, const Maybe& pre, const Tensor& h_before, const Tensor& c,
                  const Maybe& weight_ih, const Tensor& weight_hh, const Maybe& bias, const Maybe& peephole,
                  const Maybe& valid, const Tensor& h, const Tensor& c_last, const Maybe& gates,
                  bool every_step) {
  const char* name = "run_steps";
  const auto cpu = native::dlpack::cpu;
  const auto f32 = native::float32, element = is_low<E> ? native::bfloat16 : f32;
  Dim t("T"), n("N"), height("H"), width("W"), channels("C"), f("F"), kh("kernel H"), kw("kernel W");
  native::require(h_before, name, "h_before", cpu, element, n, height, width, f);
  native::require(c, name, "c", cpu, f32, n, height, width, f);
  const int64_t filters = f.length();
  if (x) native::require(*x, name, "x", cpu, element, t, n, height, width, channels);
  if (pre) native::require(*pre, name, "pre", cpu, f32, t, n, height, width, 4 * filters);
  native::demand(x.has_value() == weight_ih.has_value() && (x || pre),
                 [] { return "run_steps: x and weight_ih go together, or pre takes their place"; });
  native::require(weight_hh, name, "weight_hh", cpu, f32, 4 * filters, filters, kh, kw);
  if (weight_ih) native::require(*weight_ih, name, "weight_ih", cpu, f32, 4 * filters, channels, kh, kw);
  if (bias) native::require(*bias, name, "bias", cpu, f32, 4 * filters);
  if (peephole) native::require(*peephole, name, "peephole", cpu, f32, 3, filters);
  if (valid) native::require(*valid, name, "valid", cpu, native::boolean, t, n);
  native::require(h, name, "h", cpu, element, every_step ? t.length() : 2, n, height, width, f);
  native::require(c_last, name, "c_last", cpu, f32, n, height, width, f);
  if (gates) native::require(*gates, name, "gates", cpu, f32, t, n, height, width, 4 * filters);

  tile_of(plan.tile, name, is_low<E>);

  const Geometry geometry = plan.geometry(name, t, n, height, width, x ? channels.length() : 0, f, kh, kw);
  const Weights weights{data_of<const float>(weight_ih), weight_hh.data_as<const float>()};
  const std::unique_ptr<E[]> packed(new E[NATIVE_CALL_ISA(packed_size)(geometry, is_low<E>)]);
  const Steps<E> steps{geometry,
                       data_of<const E>(x),
                       data_of<const float>(pre),
                       h_before.data_as<const E>(),
                       c.data_as<const float>(),
                       packed.get(),
                       data_of<const float>(bias),
                       data_of<const float>(peephole),
                       data_of<const uint8_t>(valid),
                       every_step,
                       h.data_as<E>(),
                       c_last.data_as<float>(),
                       data_of<float>(gates)};
  nb::gil_scoped_release released;
  if constexpr (is_low<E>) {
    NATIVE_CALL_ISA(pack_steps_bfloat16)(geometry, weights, packed.get());
    NATIVE_CALL_ISA(run_steps_bfloat16)(steps, plan.threads);
  } else {
    NATIVE_CALL_ISA(pack_steps_float)(geometry, weights, packed.get());
    NATIVE_CALL_ISA(run_steps_float)(steps, plan.threads);
  }
}

void run_steps_backward_any(const Plan& plan, const Tensor& gates, const Tensor& cells, const Maybe& d_hs,
                            const Tensor& d_h, const Tensor& d_c, const Maybe& weight_ih,
                            const Tensor& weight_hh, const Maybe& peephole, const Maybe& valid,
                            const Tensor& d_pre, const Maybe& d_x) {
  const char* name = "run_steps_backward";
  const auto cpu = native::dlpack::cpu;
  const auto f32 = native::float32;
  Dim t("T"), n("N"), height("H"), width("W"), channels("C"), f("F"), kh("kernel H"), kw("kernel W");
  native::require(d_h, name, "d_h", cpu, f32, n, height, width, f);
  native::require(d_c, name, "d_c", cpu, f32, n, height, width, f);
  const int64_t filters = f.length();
  native::require(gates, name, "gates", cpu, f32, t, n, height, width, 4 * filters);
  native::require(cells, name, "cells", cpu, f32, t.length() + 1, n, height, width, f);
  if (d_hs) native::require(*d_hs, name, "d_hs", cpu, f32, t, n, height, width, f);
  native::require(weight_hh, name, "weight_hh", cpu, f32, 4 * filters, f, kh, kw);
  native::demand(weight_ih.has_value() == d_x.has_value(),
                 [] { return "run_steps_backward: weight_ih and d_x go together"; });
  if (d_x) {
    native::require(*d_x, name, "d_x", cpu, f32, t, n, height, width, channels);
    native::require(*weight_ih, name, "weight_ih", cpu, f32, 4 * filters, channels, kh, kw);
  }
  if (peephole) native::require(*peephole, name, "peephole", cpu, f32, 3, f);
  if (valid) native::require(*valid, name, "valid", cpu, native::boolean, t, n);
  native::require(d_pre, name, "d_pre", cpu, f32, t, n, height, width, 4 * filters);

  const Geometry geometry = plan.geometry(name, t, n, height, width, d_x ? channels.length() : 0, f, kh, kw);
  const Weights weights{data_of<const float>(weight_ih), weight_hh.data_as<const float>()};
  const std::unique_ptr<float[]> packed(new float[NATIVE_CALL_ISA(packed_backward_size)(geometry)]);
  const StepsBackward steps{geometry,
                            gates.data_as<const float>(),
                            cells.data_as<float>(),
                            data_of<const float>(d_hs),
                            packed.get(),
                            data_of<const float>(peephole),
                            data_of<const uint8_t>(valid),
                            d_h.data_as<float>(),
                            d_c.data_as<float>(),
                            d_pre.data_as<float>(),
                            data_of<float>(d_x)};
  nb::gil_scoped_release released;
  NATIVE_CALL_ISA(pack_steps_backward)(geometry, weights, packed.get());
  NATIVE_CALL_ISA(run_steps_backward)(steps, plan.threads);
}

// A convolution's weights, packed, and what it does to frames.
class PackedConvolution {
 public:
  PackedConvolution(const Tensor& weight, const Maybe& weight2, std::pair<int64_t, int64_t> before,
                    Sides sides, bool turned) {
    const char* name = "Convolution";
    Dim k("K"), c("C"), c2("C2"), kh("kernel H"), kw("kernel W");
    native::require(weight, name, "weight", native::dlpack::cpu, native::float32, k, c, kh, kw);
    if (weight2)
      native::require(*weight2, name, "weight2", native::dlpack::cpu, native::float32, k, c2, kh, kw);
    const auto [top, left] = before;
    native::demand(top >= 0 && left >= 0 && top < kh.length() && left < kw.length(),
                   [] { return "Convolution: before must lie in the kernel"; });
    const Tile tile = tile_of(sides, name);
    const int64_t second = weight2 ? c2.length() : 0;
    sizes_ = {0, 0, 0, c.length(), second, k.length(), 0, kh.length(), kw.length(), top, left, tile, turned};
    if (turned) {
      std::swap(sizes_.inputs, sizes_.outputs);
      std::swap(sizes_.inputs2, sizes_.outputs2);
    }
    packed_.reset(new float[NATIVE_CALL_ISA(packed_convolution_size)(sizes_)]);
    NATIVE_CALL_ISA(pack_convolution)
    (sizes_, weight.data_as<const float>(), data_of<const float>(weight2), packed_.get());
  }

  // x (N, H, W, inputs) and x2 (N, H, W, inputs2) to channels [first, first + outputs) of y (N, H, W, any)
  // and to y2 (N, H, W, outputs2).
  void run(const Tensor& x, const Maybe& x2, const Tensor& y, int64_t first, const Maybe& y2,
           int threads) const {
    const char* name = "Convolution.run";
    const auto cpu = native::dlpack::cpu;
    const auto f32 = native::float32;
    Convolution c = sizes_;
    Dim n("N"), h("H"), w("W"), every("outputs");
    native::require(x, name, "x", cpu, f32, n, h, w, c.inputs);
    native::require(y, name, "y", cpu, f32, n, h, w, every);
    native::demand(x2.has_value() == (c.inputs2 > 0) && y2.has_value() == (c.outputs2 > 0),
                   [] { return "Convolution.run: x2 goes with weight2, or y2 where it is turned"; });
    if (x2) native::require(*x2, name, "x2", cpu, f32, n, h, w, c.inputs2);
    if (y2) native::require(*y2, name, "y2", cpu, f32, n, h, w, c.outputs2);
    native::demand(first >= 0 && first + c.outputs <= every.length(),
                   [] { return "Convolution.run: y must have all output channels from first on"; });
    c.frames = n.length(), c.height = h.length(), c.width = w.length();
    const ConvolutionFrames frames{x.data_as<const float>(),   data_of<const float>(x2), packed_.get(),
                                   y.data_as<float>() + first, every.length(),           data_of<float>(y2)};
    nb::gil_scoped_release released;
    NATIVE_CALL_ISA(run_convolution)(c, frames, threads);
  }

 private:
  Convolution sizes_;
  std::unique_ptr<float[]> packed_;
};

bool has_bfloat16_any() { return NATIVE_CALL_ISA(has_bfloat16)(); }

template <class... A>
void run_steps_any(const Plan& plan, const Maybe& x, const Maybe& pre, const Tensor& h_before, A... rest) {
  if (h_before.dtype == native::float32) return run_steps_of<float>(plan, x, pre, h_before, rest...);
  if (h_before.dtype == native::bfloat16 && has_bfloat16_any())
    return run_steps_of<uint16_t>(plan, x, pre, h_before, rest...);
  throw native::TypeError(std::string("run_steps: h_before must be float32") +
                          (has_bfloat16_any() ? " or bfloat16" : " on this processor") + ", got " +
                          native::name(h_before.dtype));
}

// Asks the system for large pages behind a new block: 2 MiB at a time instead of 4 KiB are then made
// present on first touch. A hint: whether it is followed is the system's choice.
void prefer_large_pages(const Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 4096;
  const auto start = (reinterpret_cast<uintptr_t>(t.data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(t.data) + t.numel() * t.dtype.bits / 8) / page * page;
  if (t.is_cpu() && end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)t;
#endif
}

}  // namespace

NB_MODULE(_C, m) {
  native::register_errors();
  m.def("gates_forward",
        &gates_forward_any<Maybe, Maybe, Maybe, Maybe, Maybe, Tensor, Maybe, Tensor, Tensor, int, int, int>,
        nb::arg("pre"), nb::arg("pre2").none(), nb::arg("bias").none(), nb::arg("peephole").none(),
        nb::arg("valid").none(), nb::arg("h_before").none(), nb::arg("c_before"), nb::arg("gates").none(),
        nb::arg("c"), nb::arg("h"), nb::arg("activation"), nb::arg("recurrent"), nb::arg("threads"));
  m.def("gates_backward",
        &gates_backward_any<Tensor, Tensor, Maybe, Maybe, Maybe, Maybe, Tensor, Tensor, int, int, int>,
        nb::arg("gates"), nb::arg("c_before"), nb::arg("c"), nb::arg("dh").none(), nb::arg("dh2").none(),
        nb::arg("peephole").none(), nb::arg("valid").none(), nb::arg("dc"), nb::arg("d_pre"),
        nb::arg("activation"), nb::arg("recurrent"), nb::arg("threads"));
  m.def("cell_state", &cell_state_any, nb::arg("gates"), nb::arg("c_before"), nb::arg("valid").none(),
        nb::arg("c"), nb::arg("threads"));
  m.def("weight_gradient", &weight_gradient_any, nb::arg("x").none(), nb::arg("first2").none(),
        nb::arg("x2").none(), nb::arg("d_out"), nb::arg("d_weight").none(), nb::arg("d_weight2").none(),
        nb::arg("d_bias").none(), nb::arg("top"), nb::arg("left"), nb::arg("tile"), nb::arg("threads"));
  nb::class_<Plan>(m, "Plan").def(nb::init<std::pair<int64_t, int64_t>, std::pair<int, int>, Sides, int>(),
                                  nb::kw_only(), nb::arg("before"), nb::arg("activations"), nb::arg("tile"),
                                  nb::arg("threads"));
  m.def("run_steps", &run_steps_any<Tensor, Maybe, Tensor, Maybe, Maybe, Maybe, Tensor, Tensor, Maybe, bool>,
        nb::arg("plan"), nb::kw_only(), nb::arg("x").none(), nb::arg("pre").none(), nb::arg("h_before"),
        nb::arg("c"), nb::arg("weight_ih").none(), nb::arg("weight_hh"), nb::arg("bias").none(),
        nb::arg("peephole").none(), nb::arg("valid").none(), nb::arg("h"), nb::arg("c_last"),
        nb::arg("gates").none(), nb::arg("every_step"));
  m.def("run_steps_backward", &run_steps_backward_any, nb::arg("plan"), nb::kw_only(), nb::arg("gates"),
        nb::arg("cells"), nb::arg("d_hs").none(), nb::arg("d_h"), nb::arg("d_c"), nb::arg("weight_ih").none(),
        nb::arg("weight_hh"), nb::arg("peephole").none(), nb::arg("valid").none(), nb::arg("d_pre"),
        nb::arg("d_x").none());
  nb::class_<PackedConvolution>(m, "Convolution")
      .def(nb::init<const Tensor&, const Maybe&, std::pair<int64_t, int64_t>, Sides, bool>(),
           nb::arg("weight"), nb::arg("weight2").none(), nb::kw_only(), nb::arg("before"), nb::arg("tile"),
           nb::arg("turned"))
      .def("run", &PackedConvolution::run, nb::arg("x"), nb::arg("x2").none(), nb::arg("y"), nb::kw_only(),
           nb::arg("first"), nb::arg("y2").none(), nb::arg("threads"));
  m.def("has_bfloat16", &has_bfloat16_any);
  m.def("prefer_large_pages", &prefer_large_pages, nb::arg("t"));
  m.def("isa", [] { return std::string(native::name(native::isa())); });
#ifdef WITH_CUDA
  m.attr("cuda_architectures") = NATIVE_CUDA_ARCHITECTURES;
#else
  m.attr("cuda_architectures") = "";
#endif
}
