// The output sites that input sites reach, for convolutions and transposed convolutions. What a coordinate
// reaches depends on its axis alone, so it is worked out once for each axis, not for each site.
#pragma once

#include <vector>

#include <core/rulebook.h>
#include <cpu/sites.h>

namespace spconv_lite {

// One pair: an input row, the place of the output site that it reaches, and the kernel offset: tap / 64.
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

  int64_t most_per_row() const { return most_per_row_; }
  // Lists the pairs of rows [begin, end) in their order, at most most_per_row() each, for the table of
  // bare_frame(out_shape); returns how many.
  int64_t list(const SiteTable& out, int64_t begin, int64_t end, const TargetList& pairs) const;

 private:
  // An output coordinate on one axis, and the kernel index on that axis that leads there.
  struct Target {
    int64_t at, k;
  };
  // What each coordinate of one axis reaches; or, where the axis is too long, the coordinate of each row.
  struct Axis {
    std::vector<int64_t> start;
    std::vector<Target> target;
    bool by_row;
  };
  Axis tabulate(int axis, bool transposed);

  const int32_t* indices_;
  int64_t rows_;
  Geometry g_;
  int64_t most_per_row_ = 1;
  Axis axes_[max_axes];
};

}  // namespace spconv_lite
