// A step in one pass: blocks of inputs, matrix products with panels of weights, gates.
//
// A panel has the 2 x lanes columns of one register block: those of gates i, f, g, o for lanes / 2
// channels. So the products of a panel are all that these channels need, and the gates read them from the
// first-level cache instead of memory. Inputs of a block are either tiles transformed for Winograd's
// filtering (winograd.cpp; 16 matrix products, each row of them gives 4 pixels) or the windows of single
// pixels (one matrix product). Both read input and state where they lie, side by side.
#include "cpu/steps.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "cpu/bfloat16.h"
#include "cpu/blocks.h"
#include "native/parallel.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int quarter = columns / 4;         // channels of a panel
constexpr int eighth = columns / 8;          // of a narrow panel, which fills half of its columns
constexpr int group = 4;                     // pixels that go through the gates together
constexpr int64_t block_bytes = 256 * 1024;  // of a block's inputs: they stay in the second-level cache
constexpr int64_t most_rows = 96, least_rows = 24;

// The last panel is narrow where so few channels are left.
template <class P>
bool is_narrow(const P& p, int64_t panel) {
  return p.filters - panel * quarter <= eighth;
}

// What follows from the sizes.
struct Plan {
  int64_t kernel_down, kernel_across;  // parts of 3x3, or taps
  int64_t positions, depth, panels;    // matrix products, their inner size, register blocks of columns
  int64_t rows;                        // of a block

  template <class P>
  Plan(const P& p, bool low) {
    kernel_down = p.winograd ? (p.kernel_height + 2) / 3 : p.kernel_height;
    kernel_across = p.winograd ? (p.kernel_width + 2) / 3 : p.kernel_width;
    positions = p.winograd ? NATIVE_ISA::positions : 1;
    depth = round_up(kernel_down * kernel_across * (p.channels + p.filters), low ? 2 : 1);
    panels = (p.filters + quarter - 1) / quarter;
    const int64_t row_bytes = positions * depth * (low ? 2 : 4);
    rows = std::clamp<int64_t>(block_bytes / row_bytes, least_rows, most_rows) / tile_rows * tile_rows;
  }
};

template <class E>
struct Workspace {
  Buffer<E> inputs;        // (positions, rows, depth)
  Buffer<float> products;  // (positions, rows, columns), and a group to read beyond the last row
  Buffer<E> zeros;         // a pixel outside the frame
};

struct Place {
  int64_t frame, y, x;  // of the first output of a row
};

template <class E>
struct Step {
  const Steps<E>& s;
  Plan plan;
  const E *x, *h_before;
  const float *pre, *c_before;
  const uint8_t* valid;
  E* h;
  float *c, *gates;

  int64_t rows_across() const { return s.winograd ? (s.width + 1) / 2 : s.width; }
  int64_t rows_down() const { return s.winograd ? (s.height + 1) / 2 : s.height; }
  Place place(int64_t row) const {
    const int64_t across = rows_across(), down = rows_down(), size = s.winograd ? 2 : 1;
    return {row / (across * down), row / across % down * size, row % across * size};
  }
};

// Inputs

template <class E>
void load_tile(const Step<E>& t, Place p, E* row, int64_t stride, const E* zeros) {
  const Steps<E>& s = t.s;
  for (int64_t down = 0; down < t.plan.kernel_down; ++down)
    for (int64_t across = 0; across < t.plan.kernel_across; ++across) {
      const E *pixels[16], *states[16];
      const int64_t top = p.y + 3 * down - s.top, left = p.x + 3 * across - s.left;
      for (int i = 0; i < 16; ++i) {
        const int64_t y = top + i / 4, x = left + i % 4;
        const bool inside = y >= 0 && y < s.height && x >= 0 && x < s.width;
        const int64_t pixel = (p.frame * s.height + y) * s.width + x;
        pixels[i] = inside && s.channels ? t.x + pixel * s.channels : zeros;
        states[i] = inside ? t.h_before + pixel * s.filters : zeros;
      }
      if (s.channels) transform_input(pixels, s.channels, row, stride);
      transform_input(states, s.filters, row + s.channels, stride);
      row += s.channels + s.filters;
    }
}

template <class E>
void load_window(const Step<E>& t, Place p, E* row) {
  const Steps<E>& s = t.s;
  for (int64_t down = 0; down < t.plan.kernel_down; ++down)
    for (int64_t across = 0; across < t.plan.kernel_across; ++across) {
      const int64_t y = p.y + down - s.top, x = p.x + across - s.left;
      if (y >= 0 && y < s.height && x >= 0 && x < s.width) {
        const int64_t pixel = (p.frame * s.height + y) * s.width + x;
        if (s.channels) std::memcpy(row, t.x + pixel * s.channels, s.channels * sizeof(E));
        std::memcpy(row + s.channels, t.h_before + pixel * s.filters, s.filters * sizeof(E));
      } else {
        std::memset(row, 0, (s.channels + s.filters) * sizeof(E));
      }
      row += s.channels + s.filters;
    }
}

template <class E>
void load_rows(const Step<E>& t, int64_t first, int64_t count, Workspace<E>& w) {
  const int64_t depth = t.plan.depth, stride = t.plan.rows * depth;
  const int64_t used = t.plan.kernel_down * t.plan.kernel_across * (t.s.channels + t.s.filters);
  for (int64_t k = 0; k < count; ++k) {
    E* row = w.inputs.data() + k * depth;
    if (t.s.winograd)
      load_tile(t, t.place(first + k), row, stride, w.zeros.data());
    else
      load_window(t, t.place(first + k), row);
    for (int64_t q = 0; used < depth && q < t.plan.positions; ++q) row[q * stride + used] = E(0);
  }
}

// Gates

// The gates' arguments of a group, or constants added to them: (gate, pixel, channel of the panel).
struct Arguments {
  float v[4][group * quarter];
};

// The columns of one pixel, those of a gate side by side, to its place in the group.
template <int Channels>
void place_columns(const float* y, int pixel, Arguments& a) {
  for (int q = 0; q < 4; ++q)
    std::memcpy(a.v[q] + pixel * quarter, y + q * Channels, Channels * sizeof(float));
}

// A' m A for one tile (winograd.cpp): products (positions, columns) to 2x2 pixels.
template <int Channels>
void tile_arguments(const float* m, int64_t stride, Arguments& a) {
  float y[group][columns];
#pragma omp simd
  for (int c = 0; c < 4 * Channels; ++c) {
    float s[4], d[4];
    for (int j = 0; j < 4; ++j) {
      const float p = m[j * stride + c], q = m[(4 + j) * stride + c];
      const float r = m[(8 + j) * stride + c], u = m[(12 + j) * stride + c];
      s[j] = p + q + r;
      d[j] = q - r - u;
    }
    y[0][c] = s[0] + s[1] + s[2];
    y[1][c] = s[1] - s[2] - s[3];
    y[2][c] = d[0] + d[1] + d[2];
    y[3][c] = d[1] - d[2] - d[3];
  }
  for (int p = 0; p < group; ++p) place_columns<Channels>(y[p], p, a);
}

// The constants of a panel, once for each pixel of a group; zeros where there are none.
struct Constants {
  Arguments bias, peephole;  // of peephole the first three

  template <class E>
  Constants(const Steps<E>& s, int64_t first, int64_t n) {
    std::memset(this, 0, sizeof *this);
    for (int q = 0; q < 4; ++q)
      for (int p = 0; p < group; ++p)
        for (int64_t j = 0; j < n; ++j) {
          if (s.bias) bias.v[q][p * quarter + j] = s.bias[q * s.filters + first + j];
          if (s.peephole && q < 3) peephole.v[q][p * quarter + j] = s.peephole[q * s.filters + first + j];
        }
  }
};

// Copies the n channels of a panel; a whole panel without a loop.
template <class T>
CONVLSTM_INLINE void copy(const T* from, T* to, int64_t n) {
  if (n == quarter)
    std::memcpy(to, from, quarter * sizeof(T));
  else
    for (int64_t j = 0; j < n; ++j) to[j] = from[j];
}

// Where the pixels of a group lie in the frames; -1: there is none.
struct Pixels {
  int64_t at[group];
};

template <class E>
Pixels pixels_of(const Step<E>& t, int64_t row, int64_t end) {
  Pixels p;
  const Steps<E>& s = t.s;
  if (!s.winograd) {
    for (int k = 0; k < group; ++k) p.at[k] = row + k < end ? row + k : -1;
    return p;
  }
  const Place o = t.place(row);
  const int64_t first = (o.frame * s.height + o.y) * s.width + o.x;
  for (int k = 0; k < group; ++k) {
    const bool inside = o.y + k / 2 < s.height && o.x + k % 2 < s.width;
    p.at[k] = inside ? first + k / 2 * s.width + k % 2 : -1;
  }
  return p;
}

template <class E>
bool is_valid(const Step<E>& t, int64_t pixel) {
  return t.valid == nullptr || t.valid[pixel / (t.s.height * t.s.width)] != 0;
}

template <class E>
void carry_over(const Step<E>& t, int64_t pixel, int64_t first, int64_t n) {
  const int64_t at = pixel * t.s.filters + first;
  std::memcpy(t.h + at, t.h_before + at, n * sizeof(E));
  if (t.c != t.c_before) std::memcpy(t.c + at, t.c_before + at, n * sizeof(float));
  for (int q = 0; t.gates && q < 4; ++q)
    std::memset(t.gates + (pixel * 4 + q) * t.s.filters + first, 0, n * sizeof(float));
}

// The gates of a group: activated in place, new states to c and h.
template <Activation A, Activation R>
CONVLSTM_INLINE void apply_gates(const Constants& k, Arguments& a, const float* c_before, float* c,
                                 float* h) {
#pragma omp simd
  for (int j = 0; j < group * quarter; ++j) {
    float i = a.v[0][j] + k.bias.v[0][j], f = a.v[1][j] + k.bias.v[1][j];
    float g = a.v[2][j] + k.bias.v[2][j], o = a.v[3][j] + k.bias.v[3][j], c_new, h_new;
    forward_element<A, R>(i, f, g, o, c_before[j], k.peephole.v[0][j], k.peephole.v[1][j], k.peephole.v[2][j],
                          c_new, h_new);
    a.v[0][j] = i, a.v[1][j] = f, a.v[2][j] = g, a.v[3][j] = o;
    c[j] = c_new, h[j] = h_new;
  }
}

template <Activation A, Activation R>
CONVLSTM_INLINE void apply_gates(const Constants& k, Arguments& a, const float* c_before, float* c,
                                 uint16_t* h) {
#if CONVLSTM_BFLOAT16
  for (int j = 0; j < group * quarter; j += lanes) {
    auto load = [j](const float* from) { return Sixteen(_mm512_loadu_ps(from + j)); };
    Sixteen v[4], c_new, h_new;
    for (int q = 0; q < 4; ++q) v[q] = load(a.v[q]) + load(k.bias.v[q]);
    forward_element<A, R>(v[0], v[1], v[2], v[3], load(c_before), load(k.peephole.v[0]),
                          load(k.peephole.v[1]), load(k.peephole.v[2]), c_new, h_new);
    for (int q = 0; q < 4; ++q) _mm512_storeu_ps(a.v[q] + j, v[q].v);
    _mm512_storeu_ps(c + j, c_new.v);
    store_rounded(h + j, 0xffff, h_new.v);
  }
#else
  (void)k, (void)a, (void)c_before, (void)c, (void)h;
  std::abort();
#endif
}

template <Activation A, Activation R, class E>
void finish_group(const Step<E>& t, const Constants& k, int64_t first, int64_t n, Arguments& a,
                  const Pixels& pixels) {
  constexpr int width = group * quarter;
  const int64_t filters = t.s.filters;
  float c_before[width] = {}, c[width];
  E h[width];
  for (int p = 0; p < group; ++p) {
    if (pixels.at[p] < 0) continue;
    copy(t.c_before + pixels.at[p] * filters + first, c_before + p * quarter, n);
    for (int q = 0; t.pre && q < 4; ++q)
      for (int64_t j = 0; j < n; ++j)
        a.v[q][p * quarter + j] += t.pre[(pixels.at[p] * 4 + q) * filters + first + j];
  }
  apply_gates<A, R>(k, a, c_before, c, h);
  for (int p = 0; p < group; ++p) {
    const int64_t pixel = pixels.at[p];
    if (pixel < 0) continue;
    if (!is_valid(t, pixel)) {
      carry_over(t, pixel, first, n);
      continue;
    }
    copy(h + p * quarter, t.h + pixel * filters + first, n);
    copy(c + p * quarter, t.c + pixel * filters + first, n);
    for (int q = 0; t.gates && q < 4; ++q)
      copy(a.v[q] + p * quarter, t.gates + (pixel * 4 + q) * filters + first, n);
  }
}

template <Activation A, Activation R, int Channels, class E>
void finish_panel(const Step<E>& t, int64_t first_row, int64_t count, int64_t panel, const float* products) {
  const int64_t first = panel * quarter, n = std::min<int64_t>(quarter, t.s.filters - first);
  const Constants constants(t.s, first, n);
  Arguments a = {};
  for (int64_t k = 0; k < count; k += t.s.winograd ? 1 : group) {
    const float* from = products + k * columns;
    if (t.s.winograd)
      tile_arguments<Channels>(from, t.plan.rows * columns, a);
    else
      for (int p = 0; p < group; ++p) place_columns<Channels>(from + p * columns, p, a);
    finish_group<A, R>(t, constants, first, n, a, pixels_of(t, first_row + k, first_row + count));
  }
}

// Steps

template <int Vectors, class E>
void multiply_panel(const Step<E>& t, int64_t count, int64_t panel, Workspace<E>& w) {
  const Plan& plan = t.plan;
  for (int64_t q = 0; q < plan.positions; ++q) {
    const E* weights = t.s.weights + (q * plan.panels + panel) * plan.depth * columns;
    for (int64_t r = 0; r < count; r += tile_rows)
      multiply<Vectors>(w.inputs.data() + (q * plan.rows + r) * plan.depth, plan.depth, weights,
                        w.products.data() + (q * plan.rows + r) * columns, columns);
  }
}

template <Activation A, Activation R, class E>
void run_rows(const Step<E>& t, int64_t first, int64_t count, Workspace<E>& w) {
  const Plan& plan = t.plan;
  w.inputs.grow(plan.positions * plan.rows * plan.depth);
  w.products.grow((plan.positions * plan.rows + group) * columns);
  const int64_t widest = std::max(t.s.channels, t.s.filters);
  w.zeros.grow(widest);
  std::memset(w.zeros.data(), 0, widest * sizeof(E));
  load_rows(t, first, count, w);
  for (int64_t panel = 0; panel < plan.panels; ++panel) {
    if (is_narrow(t.s, panel)) {
      multiply_panel<1>(t, count, panel, w);
      finish_panel<A, R, eighth>(t, first, count, panel, w.products.data());
    } else {
      multiply_panel<2>(t, count, panel, w);
      finish_panel<A, R, quarter>(t, first, count, panel, w.products.data());
    }
  }
}

template <class E>
Step<E> step_of(const Steps<E>& s, const Plan& plan, int64_t t) {
  const int64_t state = s.pixels() * s.filters, slot = s.every_step ? t : t % 2;
  const int64_t slot_before = s.every_step ? t - 1 : (t + 1) % 2;
  return {s,
          plan,
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
  Plan plan(s, sizeof(E) == 2);
  if (threads <= 0) threads = native::max_threads();
  for (int64_t t = 0; t < s.steps; ++t) {
    Step<E> step = step_of(s, plan, t);
    const int64_t rows = s.frames * step.rows_down() * step.rows_across();
    // A row is computed alike in any block, so blocks may be smaller for the sake of the threads.
    const int64_t share = round_up((rows + threads - 1) / threads, tile_rows);
    step.plan.rows = std::max<int64_t>(tile_rows, std::min(plan.rows, share));
    native::parallel_for(rows, step.plan.rows, threads, [&](int64_t begin, int64_t end) {
      thread_local Workspace<E> w;
      run_rows<A, R>(step, begin, end - begin, w);
    });
  }
}

template <Activation A, class E>
void dispatch_recurrent(const Steps<E>& s, int threads) {
  switch (s.recurrent) {
    case Activation::sigmoid: return run<A, Activation::sigmoid>(s, threads);
    case Activation::hard_sigmoid: return run<A, Activation::hard_sigmoid>(s, threads);
    case Activation::hard_sigmoid_keras2: return run<A, Activation::hard_sigmoid_keras2>(s, threads);
    default: throw std::invalid_argument("run_steps: no kernel for this recurrent activation");
  }
}

template <class E>
void dispatch(const Steps<E>& s, int threads) {
  switch (s.activation) {
    case Activation::tanh: return dispatch_recurrent<Activation::tanh>(s, threads);
    case Activation::relu: return dispatch_recurrent<Activation::relu>(s, threads);
    case Activation::linear: return dispatch_recurrent<Activation::linear>(s, threads);
    case Activation::sigmoid: return dispatch_recurrent<Activation::sigmoid>(s, threads);
    default: throw std::invalid_argument("run_steps: no kernel for this activation");
  }
}

// Weights

// A panel of one row of the depth: `g` holds kernel-part elements for each column, (9 or 1, columns).
struct PanelRow {
  float g[9][columns];
};

// Reads the weights of one channel (of input or state) at a part of the kernel, for the columns of a panel.
void gather(const StepWeights& w, int64_t channel, int64_t down, int64_t across, int64_t panel,
            PanelRow& row) {
  const bool state = channel >= w.channels;
  const int64_t every = state ? w.filters : w.channels, c = state ? channel - w.channels : channel;
  const float* weights = state ? w.state : w.input;
  const int64_t size = w.winograd ? 3 : 1;
  std::memset(&row, 0, sizeof row);
  const int64_t width = is_narrow(w, panel) ? eighth : quarter;
  for (int64_t j = 0; j < 4 * width; ++j) {
    const int64_t filter = panel * quarter + j % width;
    if (filter >= w.filters) continue;
    const int64_t k = j / width * w.filters + filter;
    const float* kernel = weights + (k * every + c) * w.kernel_height * w.kernel_width;
    for (int64_t y = 0; y < size && size * down + y < w.kernel_height; ++y)
      for (int64_t x = 0; x < size && size * across + x < w.kernel_width; ++x)
        row.g[y * size + x][j] = kernel[(size * down + y) * w.kernel_width + size * across + x];
  }
}

// G g G' (winograd.cpp) of a row, to (positions, columns).
void transform_row(const PanelRow& row, float (&u)[positions][columns]) {
#pragma omp simd
  for (int j = 0; j < columns; ++j) {
    float t[12];
    for (int x = 0; x < 3; ++x) {
      const float a = row.g[x][j], b = row.g[3 + x][j], e = row.g[6 + x][j];
      t[x] = a;
      t[3 + x] = 0.5f * (a + b + e);
      t[6 + x] = 0.5f * (a - b + e);
      t[9 + x] = e;
    }
    for (int y = 0; y < 4; ++y) {
      const float a = t[3 * y], b = t[3 * y + 1], e = t[3 * y + 2];
      u[4 * y][j] = a;
      u[4 * y + 1][j] = 0.5f * (a + b + e);
      u[4 * y + 2][j] = 0.5f * (a - b + e);
      u[4 * y + 3][j] = e;
    }
  }
}

void store_row(const float* from, int64_t row, float* panel) {
  std::memcpy(panel + row * columns, from, columns * sizeof(float));
}

[[maybe_unused]] void store_row(const float* from, int64_t row, uint16_t* panel) {
  uint16_t* pairs = panel + row / 2 * 2 * columns + row % 2;
  for (int j = 0; j < columns; ++j) pairs[2 * j] = to_bfloat16(from[j]);
}

template <class E>
void pack(const StepWeights& w, E* packed) {
  const Plan plan(w, sizeof(E) == 2);
  const int64_t every = w.channels + w.filters, panel_size = plan.depth * columns;
  float u[positions][columns] = {};
  PanelRow from;
  for (int64_t panel = 0; panel < plan.panels; ++panel)
    for (int64_t row = 0; row < plan.depth; ++row) {
      const int64_t part = row / every;
      if (part < plan.kernel_down * plan.kernel_across)
        gather(w, row % every, part / plan.kernel_across, part % plan.kernel_across, panel, from);
      else
        std::memset(&from, 0, sizeof from);
      if (w.winograd) transform_row(from, u);
      for (int64_t q = 0; q < plan.positions; ++q)
        store_row(w.winograd ? u[q] : from.g[0], row, packed + (q * plan.panels + panel) * panel_size);
    }
}

}  // namespace

int64_t packed_size(const StepWeights& w, bool low) {
  const Plan plan(w, low);
  return plan.positions * plan.panels * plan.depth * columns;
}

void pack_steps_float(const StepWeights& w, float* packed) { pack(w, packed); }
void run_steps_float(const Steps<float>& s, int threads) { dispatch(s, threads); }

#if CONVLSTM_BFLOAT16
bool has_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
void pack_steps_bfloat16(const StepWeights& w, uint16_t* packed) { pack(w, packed); }
void run_steps_bfloat16(const Steps<uint16_t>& s, int threads) { dispatch(s, threads); }
#else
bool has_bfloat16() { return false; }
void pack_steps_bfloat16(const StepWeights&, uint16_t*) {
  throw std::logic_error("no bfloat16 in this build");
}
void run_steps_bfloat16(const Steps<uint16_t>&, int) { throw std::logic_error("no bfloat16 in this build"); }
#endif

}  // namespace convlstm::NATIVE_ISA
