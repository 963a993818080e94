#include <algorithm>
#include <cstdlib>
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

int64_t Targets::count(int64_t begin, int64_t end) const {
  int64_t pairs = 0;
  for (int64_t row = begin; row < end; ++row) {
    const Site site = read_site(indices_, row, g_.ndim);
    int64_t of_row = 1;
    for (int axis = 0; axis < max_axes; ++axis) of_row *= run(axis, row, site).count;
    pairs += of_row;
  }
  return pairs;
}

void Targets::list(const SiteTable& out, int64_t begin, int64_t end, const TargetList& pairs) const {
  int64_t count = 0;
  // one more step along an axis: so many lines further (a step longer than the axis is never made, and its
  // lines may pass 64 bits), and so many offsets
  const auto step = [&](int axis) {
    return std::abs(axes_[axis].at_step) < out.length[axis] ? axes_[axis].at_step : 0;
  };
  const int64_t line_step[] = {step(0) * out.length[1] * out.length[2], step(1) * out.length[2], step(2)};
  const int64_t k_step[] = {axes_[0].k_step * g_.kernel[1] * g_.kernel[2] * g_.kernel[3],
                            axes_[1].k_step * g_.kernel[2] * g_.kernel[3], axes_[2].k_step * g_.kernel[3]};
  const int64_t x_step = axes_[3].at_step, tap_step = axes_[3].k_step * 64;
  for (int64_t row = begin; row < end; ++row) {
    const Site site = read_site(indices_, row, g_.ndim);
    const Run &w = run(0, row, site), &z = run(1, row, site), &y = run(2, row, site), &x = run(3, row, site);
    if (w.count == 0 || z.count == 0 || y.count == 0) continue;
    const int64_t line = ((site.batch * out.length[0] + w.at) * out.length[1] + z.at) * out.length[2] + y.at;
    const int64_t k = ((w.k * g_.kernel[1] + z.k) * g_.kernel[2] + y.k) * g_.kernel[3] + x.k;
    for (int64_t a = 0; a < w.count; ++a)
      for (int64_t b = 0; b < z.count; ++b)
        for (int64_t c = 0; c < y.count; ++c) {
          const int64_t further = a * line_step[0] + b * line_step[1] + c * line_step[2];
          const int64_t word = (line + further) * out.words_per_line;
          int64_t at = x.at, tap = (k + a * k_step[0] + b * k_step[1] + c * k_step[2]) * 64;
          for (int64_t i = 0; i < x.count; ++i, ++count, at += x_step, tap += tap_step) {
            pairs.word[count] = word + (at >> 6);
            pairs.tap[count] = static_cast<int32_t>(tap + (at & 63));
            pairs.in_row[count] = static_cast<int32_t>(row);
          }
        }
  }
}

}  // namespace spconv_lite
