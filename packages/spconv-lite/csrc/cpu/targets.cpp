#include <algorithm>

#include <cpu/targets.h>

namespace spconv_lite {

namespace {

constexpr int64_t most_tabulated = 1 << 16;  // coordinates of an axis

}  // namespace

Targets::Targets(const int32_t* indices, int64_t rows, const Geometry& g, bool transposed)
    : indices_(indices), rows_(rows), g_(g) {
  for (int axis = 0; axis < max_axes; ++axis) axes_[axis] = tabulate(axis, transposed);
}

Targets::Axis Targets::tabulate(int axis, bool transposed) {
  Axis table{{0}, {}, g_.in_shape[axis] > most_tabulated};
  int64_t most = 0;
  for (int64_t i = 0; i < (table.by_row ? rows_ : g_.in_shape[axis]); ++i) {
    const int64_t in = table.by_row ? read_site(indices_, i, g_.ndim).at[axis] : i;
    for (int64_t k = 0; k < g_.kernel[axis]; ++k) {
      const int64_t out = target_coordinate(g_, transposed, axis, in, k);
      if (out >= 0) table.target.push_back({out, k});
    }
    table.start.push_back(static_cast<int64_t>(table.target.size()));
    most = std::max(most, table.start[i + 1] - table.start[i]);
  }
  most_per_row_ *= most;
  return table;
}

int64_t Targets::list(const SiteTable& out, int64_t begin, int64_t end, const TargetList& pairs) const {
  int64_t count = 0;
  for (int64_t row = begin; row < end; ++row) {
    const Site site = read_site(indices_, row, g_.ndim);
    const Target *first[max_axes], *last[max_axes];
    for (int axis = 0; axis < max_axes; ++axis) {
      const int64_t* start = axes_[axis].start.data() + (axes_[axis].by_row ? row : site.at[axis]);
      first[axis] = axes_[axis].target.data() + start[0];
      last[axis] = axes_[axis].target.data() + start[1];
    }
    for (const Target* w = first[0]; w != last[0]; ++w)
      for (const Target* z = first[1]; z != last[1]; ++z)
        for (const Target* y = first[2]; y != last[2]; ++y) {
          int64_t line = (site.batch * out.length[0] + w->at) * out.length[1] + z->at;
          line = (line * out.length[2] + y->at) * out.words_per_line;
          const int64_t k = ((w->k * g_.kernel[1] + z->k) * g_.kernel[2] + y->k) * g_.kernel[3];
          for (const Target* x = first[3]; x != last[3]; ++x, ++count) {
            pairs.word[count] = line + (x->at >> 6);
            pairs.tap[count] = static_cast<int32_t>((k + x->k) * 64 + (x->at & 63));
            pairs.in_row[count] = static_cast<int32_t>(row);
          }
        }
  }
  return count;
}

}  // namespace spconv_lite
