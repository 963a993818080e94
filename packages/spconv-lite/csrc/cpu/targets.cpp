#include <algorithm>
#include <numeric>
#include <utility>

#include <cpu/targets.h>

namespace spconv_lite {

namespace {

int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }  // b > 0

// x with a * x = 1 modulo m, for a and m without a common factor: Euclid's algorithm, extended.
int64_t inverse_modulo(int64_t a, int64_t m) {
  int64_t rest = m, x = 0, next_rest = a % m, next_x = 1;
  while (next_rest != 0) {
    const int64_t quotient = rest / next_rest;
    rest = std::exchange(next_rest, rest - quotient * next_rest);
    x = std::exchange(next_x, x - quotient * next_x);
  }
  return x < 0 ? x + m : x;
}

}  // namespace

Targets::Targets(const int32_t* indices, int64_t rows, const Geometry& g, bool transposed)
    : indices_(indices), rows_(rows), g_(g) {
  for (int axis = 0; axis < max_axes; ++axis) axes_[axis] = tabulate(axis, transposed);
}

Targets::Axis Targets::tabulate(int axis, bool transposed) const {
  const int64_t stride = g_.stride[axis], dilation = g_.dilation[axis], common = std::gcd(stride, dilation);
  Axis table{dilation, 1, 0, {}, g_.in_shape[axis] > rows_};
  if (!transposed) {
    table.at_step = -dilation / common;
    table.k_step = stride / common;
    table.inverse = inverse_modulo(dilation / common, table.k_step);
  }
  const int64_t count = table.by_row ? rows_ : g_.in_shape[axis];
  table.runs.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    table.runs.push_back(
        reach(table, axis, transposed, table.by_row ? read_site(indices_, i, g_.ndim).at[axis] : i));
  return table;
}

// What target_coordinate (core/rulebook.h) says of all kernel indices, in closed form.
Targets::Run Targets::reach(const Axis& of, int axis, bool transposed, int64_t in) const {
  const int64_t stride = g_.stride[axis], dilation = g_.dilation[axis], padding = g_.padding[axis];
  const int64_t last_out = g_.out_shape[axis] - 1, last_k = g_.kernel[axis] - 1;
  if (transposed) {
    const int64_t at = in * stride - padding;
    const int64_t first = std::max<int64_t>(0, -floor_divide(at, dilation));
    const int64_t last = std::min(last_k, floor_divide(last_out - at, dilation));
    return {at + first * dilation, first, std::max<int64_t>(0, last - first + 1)};
  }
  const int64_t scaled = in + padding, common = dilation / -of.at_step;
  const int64_t least = std::max<int64_t>(0, -floor_divide(last_out * stride - scaled, dilation));
  const int64_t last = std::min(last_k, scaled / dilation);
  if (scaled % common != 0) return {0, 0, 0};
  const int64_t residue = scaled / common % of.k_step * of.inverse % of.k_step;  // of k modulo k_step
  const int64_t first = least + ((residue - least) % of.k_step + of.k_step) % of.k_step;
  if (first > last) return {0, 0, 0};
  return {(scaled - first * dilation) / stride, first, (last - first) / of.k_step + 1};
}

void Targets::find_runs(int64_t row, const Site& site, Run runs[max_axes]) const {
  for (int axis = 0; axis < max_axes; ++axis) {
    const Axis& table = axes_[axis];
    runs[axis] = table.runs[static_cast<size_t>(table.by_row ? row : site.at[axis])];
  }
}

int64_t Targets::count(int64_t begin, int64_t end) const {
  int64_t pairs = 0;
  for (int64_t row = begin; row < end; ++row) {
    Run runs[max_axes];
    find_runs(row, read_site(indices_, row, g_.ndim), runs);
    pairs += runs[0].count * runs[1].count * runs[2].count * runs[3].count;
  }
  return pairs;
}

void Targets::list(const SiteTable& out, int64_t begin, int64_t end, const TargetList& pairs) const {
  int64_t count = 0;
  const int64_t x_step = axes_[3].at_step, tap_step = axes_[3].k_step * 64;
  for (int64_t row = begin; row < end; ++row) {
    const Site site = read_site(indices_, row, g_.ndim);
    Run runs[max_axes];
    find_runs(row, site, runs);
    for (int64_t w = 0; w < runs[0].count; ++w)
      for (int64_t z = 0; z < runs[1].count; ++z)
        for (int64_t y = 0; y < runs[2].count; ++y) {
          int64_t line = site.batch, k = 0;
          const int64_t step[] = {w, z, y};
          for (int axis = 0; axis < max_axes - 1; ++axis) {
            line = line * out.length[axis] + runs[axis].at + step[axis] * axes_[axis].at_step;
            k = k * g_.kernel[axis] + runs[axis].k + step[axis] * axes_[axis].k_step;
          }
          line *= out.words_per_line;
          int64_t x = runs[3].at, tap = (k * g_.kernel[3] + runs[3].k) * 64;
          for (int64_t i = 0; i < runs[3].count; ++i, ++count, x += x_step, tap += tap_step) {
            pairs.word[count] = line + (x >> 6);
            pairs.tap[count] = static_cast<int32_t>(tap + (x & 63));
            pairs.in_row[count] = static_cast<int32_t>(row);
          }
        }
  }
}

}  // namespace spconv_lite
