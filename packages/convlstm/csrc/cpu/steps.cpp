// A step in one pass: blocks of inputs, matrix products with panels of weights, gates.
//
// A panel has the columns of gates i, f, g, o for a few channels. So the products of a panel are all that
// these channels need, and the gates read them from the first-level cache instead of memory. Input and
// state are read where they lie, side by side.
#include "cpu/steps.h"

#include <algorithm>
#include <stdexcept>

#include "cpu/epilogue.h"
#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

Grid grid_of(const Geometry& s) {
  Grid g = {};
  g.frames = s.frames, g.height = s.height, g.width = s.width;
  g.channels = s.channels, g.channels2 = s.filters;
  g.kernel_height = s.kernel_height, g.kernel_width = s.kernel_width;
  g.top = s.top, g.left = s.left;
  g.tile = s.tile;
  return g;
}

template <Activation A, Activation R, class E>
void run_block(const Step<E>& t, const Grid& g, int64_t first, int64_t count, int64_t rows, Workspace<E>& w) {
  load_rows(g, t.x, t.h_before, first, count, rows, w);
  prefetch_cells(t, g, first, count);
  const int64_t panels = panels_of(t.s.filters);
  for (int64_t panel = 0; panel < panels; ++panel) {
    if (!is_narrow(t.s.filters, panel)) {
      multiply_panel<2>(g, t.s.weights, panels, panel, count, rows, w);
      finish_panel<A, R, 2>(t, g, panel, first, count, rows, w.products.data());
    } else if constexpr (eighth > 0) {
      multiply_panel<1>(g, t.s.weights, panels, panel, count, rows, w);
      finish_panel<A, R, 4>(t, g, panel, first, count, rows, w.products.data());
    }
  }
}

template <class E>
Step<E> step_of(const Steps<E>& s, int64_t t) {
  const int64_t state = s.pixels() * s.filters, slot = s.every_step ? t : t % 2;
  const int64_t slot_before = s.every_step ? t - 1 : (t + 1) % 2;
  return {s,
          s.x + t * s.pixels() * s.channels,
          t ? s.h + slot_before * state : s.h_before,
          s.pre ? s.pre + t * 4 * state : nullptr,
          t ? s.c_last : s.c,
          s.valid ? s.valid + t * s.frames : nullptr,
          s.h + slot * state,
          s.c_last,
          s.gates ? s.gates + t * 4 * state : nullptr};
}

template <Activation A, Activation R, class E>
void run(const Steps<E>& s, int threads) {
  const Grid g = grid_of(s);
  if (threads <= 0) threads = native::max_threads();
  const int64_t rows = g.block_rows(sizeof(E) == 2, threads);
  for (int64_t t = 0; t < s.steps; ++t) {
    const Step<E> step = step_of(s, t);
    native::parallel_for(g.rows(), rows, threads, [&](int64_t begin, int64_t end) {
      thread_local Workspace<E> w;
      run_block<A, R>(step, g, begin, end - begin, rows, w);
    });
  }
}

template <class E>
void dispatch(const Steps<E>& s, int threads) {
  with_activations(s.activation, s.recurrent, [&](auto a, auto r) { run<a(), r()>(s, threads); });
}

template <class E>
void pack(const Geometry& s, const Weights& w, E* packed) {
  const int64_t taps = s.kernel_height * s.kernel_width;
  auto kernel = [&](int64_t channel, int64_t panel, int j) -> const float* {
    const int width = is_narrow(s.filters, panel) ? eighth : quarter;
    const int64_t filter = panel * quarter + j % width, k = j / width * s.filters + filter;
    if (j >= 4 * width || filter >= s.filters) return nullptr;
    if (channel < s.channels) return w.input + (k * s.channels + channel) * taps;
    return w.state + (k * s.filters + channel - s.channels) * taps;
  };
  pack_panels(grid_of(s), panels_of(s.filters), false, kernel, packed);
}

}  // namespace

int64_t packed_size(const Geometry& s, bool low) {
  return panels_size(grid_of(s), panels_of(s.filters), low);
}

void pack_steps_float(const Geometry& s, const Weights& w, float* packed) { pack(s, w, packed); }
void run_steps_float(const Steps<float>& s, int threads) { dispatch(s, threads); }

#if CONVLSTM_BFLOAT16
bool has_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
void pack_steps_bfloat16(const Geometry& s, const Weights& w, uint16_t* packed) { pack(s, w, packed); }
void run_steps_bfloat16(const Steps<uint16_t>& s, int threads) { dispatch(s, threads); }
#else
bool has_bfloat16() { return false; }
void pack_steps_bfloat16(const Geometry&, const Weights&, uint16_t*) {
  throw std::logic_error("no bfloat16 in this build");
}
void run_steps_bfloat16(const Steps<uint16_t>&, int) { throw std::logic_error("no bfloat16 in this build"); }
#endif

}  // namespace convlstm::NATIVE_ISA
