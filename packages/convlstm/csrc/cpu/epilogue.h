// The epilogue of a step's products: the gates of the channels of one panel, in registers.
//
// A wide panel has the columns of gates i, f, g, o for lanes / 2 channels: i and f in its first vector, g
// and o in its second. Two pixels together fill a vector with each gate. A narrow panel has all four gates
// of lanes / 4 channels in its first vector, and four pixels fill the vectors.
#pragma once

#include "cpu/rows.h"
#include "cpu/steps.h"

namespace convlstm::NATIVE_ISA {
namespace {

constexpr int quarter = columns / 4;                  // channels of a panel
constexpr int eighth = lanes >= 8 ? columns / 8 : 0;  // of a narrow one (four lanes have none)

// The last panel is narrow where so few channels are left.
inline bool is_narrow(int64_t filters, int64_t panel) { return filters - panel * quarter <= eighth; }
inline int64_t panels_of(int64_t filters) { return (filters + quarter - 1) / quarter; }

template <class E>
struct NumberOf {
  using type = Floats;
};
CONVLSTM_INLINE Span<float, lanes> rounded(Floats x) { return x.v; }

#if CONVLSTM_BFLOAT16
template <>
struct NumberOf<uint16_t> {
  using type = Sixteen;
};
#endif
template <class E>
using Number = typename NumberOf<E>::type;

// One step: what it reads and writes.
template <class E>
struct Step {
  const Steps<E>& s;
  const E *x, *h_before;
  const float *pre, *c_before;
  const uint8_t* valid;
  E* h;
  float *c, *gates;

  bool is_valid(int64_t pixel) const { return valid == nullptr || valid[pixel / (s.height * s.width)] != 0; }
};

// A panel's channels [first, first + count), and its constants for `Pixels` pixels; zeros for none.
template <class E, int Pixels>
struct Panel {
  int64_t first, count;
  Number<E> bias[4], peephole[3];

  Panel(const Steps<E>& s, int64_t panel)
      : first(panel * quarter), count(std::min<int64_t>(channels_each<Pixels>, s.filters - first)) {
    auto repeated = [&](const float* from, int q) {
      const float* at = from ? from + q * s.filters + first : no_floats;
      return Number<E>(gathered<Pixels>(count, [&](int) { return at; }));
    };
    for (int q = 0; q < 4; ++q) bias[q] = repeated(s.bias, q);
    for (int q = 0; q < 3; ++q) peephole[q] = repeated(s.peephole, q);
  }
};

// A sequence that is not valid keeps both states.
template <class E>
void carry_over(const Step<E>& t, int64_t pixel, int64_t first, int64_t n) {
  const int64_t at = pixel * t.s.filters + first;
  std::memcpy(t.h + at, t.h_before + at, n * sizeof(E));
  if (t.c != t.c_before) std::memcpy(t.c + at, t.c_before + at, n * sizeof(float));
  for (int q = 0; t.gates && q < 4; ++q)
    std::memset(t.gates + (pixel * 4 + q) * t.s.filters + first, 0, n * sizeof(float));
}

// Gates and states of a group from the gates' arguments, `Pixels` pixels in each vector. Whole: all pixels of
// the group are there and valid, which needs no tests; else `pixels` has -1 for the others.
template <Activation A, Activation R, bool Whole, class E, int Pixels>
CONVLSTM_INLINE void finish_pixels(const Step<E>& t, const Panel<E, Pixels>& panel,
                                   Number<E> (&a)[group / Pixels][4], const struct Pixels& pixels) {
  using N = Number<E>;
  constexpr int vectors = group / Pixels;
  const int64_t filters = t.s.filters, first = panel.first;
  const int64_t n = panel.count;
  float nowhere[lanes];
  auto load = [&](int v, const float* from, int64_t stride) CONVLSTM_INLINE_LAMBDA {
    return N(gathered<Pixels>(n, [&](int p) CONVLSTM_INLINE_LAMBDA {
      const int64_t pixel = pixels.at[v * Pixels + p];
      return !Whole && pixel < 0 ? no_floats : from + pixel * stride + first;
    }));
  };
  auto store = [&](int v, auto x, auto* to, int64_t stride) CONVLSTM_INLINE_LAMBDA {
    using T = std::remove_pointer_t<decltype(to)>;
    scattered<T, Pixels>(x, n, [&](int p) CONVLSTM_INLINE_LAMBDA {
      const int64_t pixel = pixels.at[v * Pixels + p];
      return !Whole && pixel < 0 ? reinterpret_cast<T*>(nowhere) : to + pixel * stride + first;
    });
  };
  N before[vectors], c[vectors], h[vectors];
  for (int v = 0; v < vectors; ++v) before[v] = load(v, t.c_before, filters);
  for (int v = 0; v < vectors; ++v)
    for (int q = 0; q < 4; ++q) {
      a[v][q] = a[v][q] + panel.bias[q];
      if (t.pre) a[v][q] = a[v][q] + load(v, t.pre + q * filters, 4 * filters);
    }
  for (int v = 0; v < vectors; ++v)
    forward_element<A, R>(a[v][0], a[v][1], a[v][2], a[v][3], before[v], panel.peephole[0], panel.peephole[1],
                          panel.peephole[2], c[v], h[v]);
  for (int v = 0; v < vectors; ++v) {
    store(v, rounded(h[v]), t.h, filters);
    store(v, Span<float, lanes>(c[v].v), t.c, filters);
    if (t.gates)
      for (int q = 0; q < 4; ++q) store(v, Span<float, lanes>(a[v][q].v), t.gates + q * filters, 4 * filters);
  }
}

// The arguments of a group's gates: y has the first vector of columns of each pixel, z the second.
template <class N>
CONVLSTM_INLINE void arrange(const Vector* y, const Vector* z, N (&a)[2][4]) {
  for (int v = 0; v < 2; ++v) {
    const int p = 2 * v;
    a[v][0] = halves<0>(y[p], y[p + 1]), a[v][1] = halves<1>(y[p], y[p + 1]);
    a[v][2] = halves<0>(z[p], z[p + 1]), a[v][3] = halves<1>(z[p], z[p + 1]);
  }
}

template <class N>
CONVLSTM_INLINE void arrange(const Vector* y, const Vector*, N (&a)[1][4]) {
  const auto low = halves<0>(y[0], y[1]), low2 = halves<0>(y[2], y[3]);
  const auto high = halves<1>(y[0], y[1]), high2 = halves<1>(y[2], y[3]);
  a[0][0] = quarters<0>(low, low2), a[0][1] = quarters<1>(low, low2);
  a[0][2] = quarters<0>(high, high2), a[0][3] = quarters<1>(high, high2);
}

template <Activation A, Activation R, class E, int Pixels>
CONVLSTM_NOINLINE void finish_group(const Step<E>& t, const Panel<E, Pixels>& panel, const Vector* y,
                                    const Vector* z, struct Pixels pixels) {
  Number<E> a[group / Pixels][4];
  arrange(y, z, a);
  bool whole = panel.count == channels_each<Pixels>;
  for (int64_t& pixel : pixels.at) {
    if (pixel >= 0 && !t.is_valid(pixel)) {
      carry_over(t, pixel, panel.first, panel.count);
      pixel = -1;
    }
    whole = whole && pixel >= 0;
  }
  if (whole) {
    Panel<E, Pixels> full = panel;
    full.count = channels_each<Pixels>;
    finish_pixels<A, R, true>(t, full, a, pixels);
  } else {
    finish_pixels<A, R, false>(t, panel, a, pixels);
  }
}

// Asks for the cell states that a block of rows will read once its first products are made.
template <class E>
void prefetch_cells(const Step<E>& t, const Grid& g, int64_t first_row, int64_t count) {
  const int64_t row_bytes = g.tile.out * t.s.filters * sizeof(float);
  Place place(g, first_row);
  for (int64_t k = 0; k < count; ++k, place.next(g))
    for (int64_t down = 0; down < std::min(g.tile.out, g.height - place.y); ++down) {
      const int64_t pixel = (place.frame * g.height + place.y + down) * g.width + place.x;
      const char* at = reinterpret_cast<const char*>(t.c_before + pixel * t.s.filters);
      for (int64_t b = 0; b < row_bytes; b += 64) __builtin_prefetch(at + b);
    }
}

// All rows of a block, from `first_row` of the step on; Pixels is 2 for a wide panel, 4 for a narrow one.
template <Activation A, Activation R, int Pixels, class E>
void finish_panel(const Step<E>& t, const Grid& g, int64_t panel, int64_t first_row, int64_t count,
                  int64_t rows, const float* products) {
  const Panel<E, Pixels> constants(t.s, panel);
  Place place(g, first_row);
  PanelOutputs<columns / lanes> out;
  for (int64_t k = 0; k < count;) {
    k += make_outputs(g, place, products + k * columns, rows, count - k, out);
    for (int q = 0; q < out.groups; ++q)
      finish_group<A, R>(t, constants, out.y[0] + q * group, out.y[1] + q * group, out.pixels[q]);
  }
}

}  // namespace
}  // namespace convlstm::NATIVE_ISA
