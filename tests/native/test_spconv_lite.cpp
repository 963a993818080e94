// spconv-lite's core from C++: rulebooks and convolutions against loops over all pairs of sites.
#include <cpu/conv.h>
#include <cpu/rulebook.h>

#include <algorithm>
#include <cmath>

#include "native/check.h"
#include "testing.h"

using namespace spconv_lite;

namespace {

constexpr int32_t side = 12;

// Distinct sites (batch, z, y, x) of a cube: every cell whose hash is small.
std::vector<int32_t> some_sites() {
  std::vector<int32_t> sites;
  for (int32_t cell = 0; cell < side * side * side; ++cell)
    if (static_cast<uint32_t>(cell) * 2654435761u >> 24 < 90)
      for (int32_t value : {0, cell / side / side, cell / side % side, cell % side}) sites.push_back(value);
  return sites;
}

Geometry cube(int64_t kernel, int64_t stride, int64_t padding) {
  Geometry geometry;
  for (int axis = 1; axis < max_axes; ++axis) {
    geometry.in_shape[axis] = side;
    geometry.kernel[axis] = kernel;
    geometry.stride[axis] = stride;
    geometry.padding[axis] = padding;
    geometry.out_shape[axis] = (side + 2 * padding - kernel) / stride + 1;
  }
  return geometry;
}

struct Compact {
  std::vector<int32_t> pair_in;
  std::vector<uint8_t> pair_out;
  std::vector<int64_t> offset;

  explicit Compact(const Rulebook& book)
      : pair_in(book.pairs()), pair_out(book.pairs()), offset(book.block_offsets()) {
    book.write_compact(pair_in.data(), pair_out.data(), offset.data());
  }
  bool operator==(const Compact& other) const {
    return pair_in == other.pair_in && pair_out == other.pair_out && offset == other.offset;
  }
};

std::vector<float> numbers(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  for (float& value : values)
    value = static_cast<float>((seed = seed * 1664525u + 1013904223u) >> 16) / 65536.f - 0.5f;
  return values;
}

}  // namespace

TEST("a submanifold's rulebook joins exactly the sites within the kernel's reach") {
  const std::vector<int32_t> sites = some_sites();
  const int64_t rows = static_cast<int64_t>(sites.size()) / 4;
  const Rulebook book(sites.data(), rows, cube(3, 1, 1), Kind::submanifold, 3);
  int64_t near = 0;
  for (int64_t a = 0; a < rows; ++a)
    for (int64_t b = 0; b < rows; ++b) {
      bool reached = true;
      for (int axis = 1; axis < 4; ++axis)
        reached &= std::abs(sites[4 * a + axis] - sites[4 * b + axis]) <= 1;
      near += reached;
    }
  EXPECT(book.pairs() == near);
  EXPECT(book.out_rows() == rows);
}

TEST("rulebooks of every kind are the same for any number of threads") {
  const std::vector<int32_t> sites = some_sites();
  const int64_t rows = static_cast<int64_t>(sites.size()) / 4;
  for (Kind kind : {Kind::submanifold, Kind::convolution, Kind::transposed}) {
    Geometry geometry = kind == Kind::submanifold ? cube(3, 1, 1) : cube(2, 2, 0);
    if (kind == Kind::transposed)
      for (int axis = 1; axis < max_axes; ++axis) geometry.out_shape[axis] = 2 * side;
    const Compact one(Rulebook(sites.data(), rows, geometry, kind, 1));
    for (int threads : {2, 5}) EXPECT(one == Compact(Rulebook(sites.data(), rows, geometry, kind, threads)));
  }
}

TEST("a convolution is the sum over its pairs, and has the same bits for any number of threads") {
  const std::vector<int32_t> sites = some_sites();
  const int64_t rows = static_cast<int64_t>(sites.size()) / 4, in = 5, out = 7;
  const Rulebook book(sites.data(), rows, cube(3, 1, 1), Kind::submanifold, 2);
  const Compact compact(book);
  const Map map{
      compact.pair_in.data(), compact.pair_out.data(), compact.offset.data(), book.pairs(), rows, rows, 27};
  const std::vector<float> x = numbers(rows * in, 1), weight = numbers(out * 27 * in, 2),
                           bias = numbers(out, 3);
  std::vector<float> y(rows * out), again(rows * out);
  convolve<float>(map, x.data(), in, weight.data(), {bias.data()}, out, 1, y.data(), 1);
  convolve<float>(map, x.data(), in, weight.data(), {bias.data()}, out, 1, again.data(), 4);
  EXPECT(y == again);
  double worst = 0;
  for (int64_t a = 0; a < rows; ++a)
    for (int64_t channel = 0; channel < out; ++channel) {
      double sum = bias[channel];
      for (int64_t b = 0; b < rows; ++b) {
        int64_t tap = 0;
        bool reached = true;
        for (int axis = 1; axis < 4; ++axis) {
          const int32_t step = sites[4 * b + axis] - sites[4 * a + axis] + 1;
          reached &= step >= 0 && step <= 2;
          tap = tap * 3 + step;
        }
        for (int64_t i = 0; reached && i < in; ++i)
          sum += double(x[b * in + i]) * weight[(channel * 27 + tap) * in + i];
      }
      worst = std::max(worst, std::abs(sum - y[a * out + channel]));
    }
  EXPECT(worst < 1e-5);
}

TEST("a site outside the grid, or one that comes twice, is refused") {
  const std::vector<int32_t> outside{0, 0, 0, side}, twice{0, 1, 1, 1, 0, 1, 1, 1};
  int refused = 0;
  for (const auto* sites : {&outside, &twice}) try {
      Rulebook(sites->data(), static_cast<int64_t>(sites->size()) / 4, cube(3, 1, 1), Kind::submanifold, 2);
    } catch (const native::ValueError&) {
      ++refused;
    }
  EXPECT(refused == 2);
}

RUN_TESTS()
