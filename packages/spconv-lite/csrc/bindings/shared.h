// What the bindings of the CPU and of CUDA share: a layer's geometry and the check of its operands.
#pragma once

#include <array>
#include <string>

#include <core/rulebook.h>
#include <native/caster.h>
#include <native/check.h>

namespace spconv_lite::bindings {

using Axes = std::array<int64_t, max_axes>;

inline Geometry make_geometry(int ndim, int64_t batch_size, const Axes& in_shape, const Axes& out_shape,
                              const Axes& kernel, const Axes& stride, const Axes& padding,
                              const Axes& dilation) {
  Geometry g;
  g.ndim = ndim;
  g.batch_size = batch_size;
  for (int axis = 0; axis < max_axes; ++axis) {
    native::demand(
        in_shape[axis] >= 0 && out_shape[axis] >= 0 && kernel[axis] > 0 && stride[axis] > 0 &&
            dilation[axis] > 0,
        [] { return std::string("get_indice_pairs: shapes, kernel, stride and dilation must be positive"); });
    g.in_shape[axis] = in_shape[axis];
    g.out_shape[axis] = out_shape[axis];
    g.kernel[axis] = kernel[axis];
    g.stride[axis] = stride[axis];
    g.padding[axis] = padding[axis];
    g.dilation[axis] = dilation[axis];
  }
  return g;
}

// A weight (out, k..., in) as (out, K, in), in the memory of `shape`.
inline native::Tensor join_kernel_axes(const native::Tensor& weight, int64_t shape[3]) {
  if (weight.ndim < 2 || !weight.is_contiguous()) return weight;  // for require to refuse
  shape[0] = weight.shape[0];
  shape[1] = 1;
  for (int axis = 1; axis + 1 < weight.ndim; ++axis) shape[1] *= weight.shape[axis];
  shape[2] = weight.shape[weight.ndim - 1];
  native::Tensor joined = weight;
  joined.ndim = 3;
  joined.shape = shape;
  joined.strides = nullptr;
  return joined;
}

struct Sizes {
  int64_t in_rows, in_channels, out_rows, out_channels, volume;
};

// Of the features, the weight and the result of a convolution.
struct DTypes {
  native::DType x, weight, y;
};

// The features and weights of one convolution. `weight` is (out, k..., in / groups).
inline Sizes check_operands(const char* function, const native::Tensor& x, const native::Tensor& weight,
                            const native::Tensor& y, int64_t groups, int32_t device, const DTypes& dtypes) {
  native::Dim in_rows("N"), in("C"), out_rows("M"), out("C_out"), volume("K");
  native::require(x, function, "features", device, dtypes.x, in_rows, in);
  native::demand(groups > 0 && in.length() % groups == 0, [&] {
    return std::string(function) + ": groups must divide the " + std::to_string(in.length()) +
           " channels, got " + std::to_string(groups);
  });
  int64_t shape[3];
  native::require(join_kernel_axes(weight, shape), function, "weight", device, dtypes.weight, out, volume,
                  in.length() / groups);
  native::require(y, function, "output features", device, dtypes.y, out_rows, out);
  native::demand(out.length() % groups == 0, [&] {
    return std::string(function) + ": groups must divide the " + std::to_string(out.length()) +
           " output channels, got " + std::to_string(groups);
  });
  return {in_rows.length(), in.length(), out_rows.length(), out.length(), volume.length()};
}

}  // namespace spconv_lite::bindings
