// The output sites that input sites reach, for convolutions and transposed convolutions. On each axis a
// coordinate reaches an arithmetic progression of output coordinates, through another of kernel indices; it
// depends on the axis alone, so it is worked out once for each coordinate, not for each site.
#pragma once

#include <vector>

#include <core/rulebook.h>
#include <cpu/pairs.h>

namespace spconv_lite {

// One pair: an input row, the word of the output site that it reaches, and the kernel offset: tap / 64.
// Arrays of the same length.
struct TargetList {
  int64_t* word;
  int32_t* tap;  // offset * 64 + bit of the word
  int32_t* in_row;
};

inline constexpr int64_t most_volume = int64_t{1} << 24;  // so that a tap is an int32

class Targets {
 public:
  // Of the rows of int32 indices (rows, 1 + ndim), which must outlive the object.
  Targets(const int32_t* indices, int64_t rows, const Geometry& g, bool transposed);

  // How many pairs the rows [begin, end) have.
  int64_t count(int64_t begin, int64_t end) const;
  // Lists them in the order of rows, for the table of bare_frame(out_shape).
  void list(const SiteTable& out, int64_t begin, int64_t end, const TargetList& pairs) const;

 private:
  // The output coordinates at, at + Axis::at_step, ... through the kernel indices k, k + Axis::k_step, ...
  struct Run {
    int64_t at, k, count;
  };
  struct Axis {
    int64_t at_step, k_step;
    int64_t inverse;        // of dilation modulo stride, both without their common factor
    std::vector<Run> runs;  // of each coordinate; or, where the axis is longer than the list of rows, of each
    bool by_row;            // row
  };
  Axis tabulate(int axis, bool transposed) const;
  Run reach(const Axis& of, int axis, bool transposed, int64_t in) const;
  const Run& run(int axis, int64_t row, const Site& site) const {
    const Axis& table = axes_[axis];
    return table.runs[static_cast<size_t>(table.by_row ? row : site.at[axis])];
  }

  const int32_t* indices_;
  int64_t rows_;
  Geometry g_;
  Axis axes_[max_axes];
};

}  // namespace spconv_lite
