// Which input site does which output site read through which kernel offset? The geometry of a sparse
// convolution, shared by the CPU and the CUDA rulebooks. As in torch, a convolution is a
// cross-correlation:
//   convolution              in  = out * stride - padding + k * dilation     (per axis)
//   transposed convolution   out = in  * stride - padding + k * dilation
//   submanifold              the convolution with stride 1, padding (kernel / 2) * dilation, and the
//                            output sites are the input sites (Graham, van der Maaten 2017)
#pragma once

#include <cstdint>

#include <native/device.h>

namespace spconv_lite {

// Spatial axes; a layer with fewer has leading axes of length 1, so that every loop is the same loop.
inline constexpr int max_axes = 4;

// One active site. at[] is in spatial order (..., z, y, x); x, the last, varies fastest.
struct Site {
  int64_t batch;
  int64_t at[max_axes];
};

struct Geometry {
  int ndim = 3;  // axes in use: the last `ndim` of max_axes
  int64_t batch_size = 1;
  int64_t in_shape[max_axes] = {1, 1, 1, 1};
  int64_t out_shape[max_axes] = {1, 1, 1, 1};
  int64_t kernel[max_axes] = {1, 1, 1, 1};
  int64_t stride[max_axes] = {1, 1, 1, 1};
  int64_t padding[max_axes] = {0, 0, 0, 0};
  int64_t dilation[max_axes] = {1, 1, 1, 1};

  HD int64_t volume() const { return kernel[0] * kernel[1] * kernel[2] * kernel[3]; }
};

// Row `row` of int32 indices (N, 1 + ndim), columns (batch, ..., z, y, x).
HD Site read_site(const int32_t* indices, int64_t row, int ndim) {
  const int32_t* at = indices + row * (ndim + 1);
  Site site{at[0], {0, 0, 0, 0}};
  for (int axis = 0; axis < ndim; ++axis) site.at[max_axes - ndim + axis] = at[1 + axis];
  return site;
}

HD void write_site(const Site& site, int32_t* indices, int64_t row, int ndim) {
  int32_t* at = indices + row * (ndim + 1);
  at[0] = static_cast<int32_t>(site.batch);
  for (int axis = 0; axis < ndim; ++axis)
    at[1 + axis] = static_cast<int32_t>(site.at[max_axes - ndim + axis]);
}

HD bool inside(const Site& site, int64_t batch_size, const int64_t* shape) {
  bool fits = site.batch >= 0 && site.batch < batch_size;
  for (int axis = 0; axis < max_axes; ++axis)
    fits = fits && site.at[axis] >= 0 && site.at[axis] < shape[axis];
  return fits;
}

// The place of a site in the dense (batch, shape...) array. 64 bits: a grid of 4096^3 has 2^36 cells.
// The caller has checked that the whole array has at most 2^63 - 1 cells.
HD int64_t row_major_index(const Site& site, const int64_t* shape) {
  int64_t index = site.batch;
  for (int axis = 0; axis < max_axes; ++axis) index = index * shape[axis] + site.at[axis];
  return index;
}

HD Site site_at(int64_t row_major, const int64_t* shape) {
  Site site{};
  for (int axis = max_axes - 1; axis >= 0; --axis) {
    site.at[axis] = row_major % shape[axis];
    row_major /= shape[axis];
  }
  site.batch = row_major;
  return site;
}

// Kernel offset number k (row-major over the kernel) as one number an axis.
HD void kernel_offset(const Geometry& g, int64_t k, int64_t offset[max_axes]) {
  for (int axis = max_axes - 1; axis >= 0; --axis) {
    offset[axis] = k % g.kernel[axis];
    k /= g.kernel[axis];
  }
}

// The input site that output site `out` reads through an offset. False if it lies outside the grid.
HD bool source_site(const Geometry& g, const Site& out, const int64_t offset[max_axes], Site* in) {
  in->batch = out.batch;
  bool fits = true;
  for (int axis = 0; axis < max_axes; ++axis) {
    const int64_t at = out.at[axis] * g.stride[axis] - g.padding[axis] + offset[axis] * g.dilation[axis];
    fits = fits && at >= 0 && at < g.in_shape[axis];
    in->at[axis] = at;
  }
  return fits;
}

// The coordinate on one axis of the output that reads input coordinate `in` through offset k, or -1. Numbers
// of a geometry are below 2^31, so that what is divided has 32 bits: a GPU takes a tenth of the time for it.
HD int64_t target_coordinate(const Geometry& g, bool transposed, int axis, int64_t in, int64_t k) {
  int64_t out;
  if (transposed) {
    out = in * g.stride[axis] - g.padding[axis] + k * g.dilation[axis];
  } else {
    const int64_t scaled = in + g.padding[axis] - k * g.dilation[axis];
    const auto value = static_cast<uint32_t>(scaled), stride = static_cast<uint32_t>(g.stride[axis]);
    if (scaled < 0 || value % stride != 0) return -1;
    out = value / stride;
  }
  return out >= 0 && out < g.out_shape[axis] ? out : -1;
}

}  // namespace spconv_lite
