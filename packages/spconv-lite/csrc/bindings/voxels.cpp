// Points to voxels, and sites in order.
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <string>
#include <vector>

#include <bindings/cpu.h>
#include <bindings/stages.h>
#include <cpu/voxels.h>

namespace nb = nanobind;
using native::Dim;
using native::require;
using native::operator==;  // the types live in native::dlpack
using native::Tensor;

namespace spconv_lite::bindings {
namespace {

using Four = std::array<double, 4>;

spconv_lite::VoxelGrid make_grid(int64_t ndim, const Four& low, const Four& size, const Axes& cells) {
  native::demand(ndim >= 1 && ndim <= 4, [] { return std::string("PointToVoxel: 1 to 4 axes"); });
  spconv_lite::VoxelGrid grid{ndim, {}, {}, {}};
  for (size_t axis = 0; axis < 4; ++axis) {
    grid.low[axis] = low[axis];
    grid.size[axis] = size[axis];
    grid.cells[axis] = cells[axis];
  }
  return grid;
}

int64_t number_voxels(const Tensor& places, int64_t ndim, const Four& low, const Four& size,
                      const Axes& cells, int64_t most_voxels, const Tensor& voxel) {
  const native::DType dtype = float_or_double(places);
  Dim n("N"), columns("C");
  require(places, "PointToVoxel", "pc", cpu, dtype, n, columns);
  require(voxel, "PointToVoxel", "pc_voxel_id", cpu, native::int64, n);
  native::demand(columns.length() >= ndim, [] { return std::string("PointToVoxel: too few columns"); });
  const auto grid = make_grid(ndim, low, size, cells);
  int64_t found = 0;
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    found = spconv_lite::number_voxels<T>(places.data_as<T>(), n.length(), columns.length(), grid,
                                          most_voxels, voxel.data_as<int64_t>());
  });
  return found;
}

void list_voxels(const Tensor& places, int64_t ndim, const Four& low, const Four& size, const Axes& cells,
                 const Tensor& voxel, const Tensor& indices, const Tensor& number, const Tensor& rows) {
  const native::DType dtype = float_or_double(places);
  Dim n("N"), columns("C"), voxels("M"), points("P");
  require(places, "PointToVoxel", "pc", cpu, dtype, n, columns);
  require(voxel, "PointToVoxel", "pc_voxel_id", cpu, native::int64, n);
  require(indices, "PointToVoxel", "indices", cpu, native::int32, voxels, ndim);
  require(number, "PointToVoxel", "num_per_voxel", cpu, native::int32, voxels);
  require(rows, "PointToVoxel", "rows", cpu, native::int64, voxels, points);
  const auto grid = make_grid(ndim, low, size, cells);
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::list_voxels<T>(
        places.data_as<T>(), n.length(), columns.length(), grid, voxel.data_as<int64_t>(), voxels.length(),
        points.length(), indices.data_as<int32_t>(), number.data_as<int32_t>(), rows.data_as<int64_t>());
  });
}

// Both as bytes: (N, bytes of a point) and (places, bytes of a point).
void gather_points(const Tensor& points, const Tensor& rows, const Tensor& values) {
  Dim n("N"), bytes("B"), places("M * P");
  require(points, "PointToVoxel", "pc", cpu, native::uint8, n, bytes);
  require(rows, "PointToVoxel", "rows", cpu, native::int64, places);
  require(values, "PointToVoxel", "voxels", cpu, native::uint8, places, bytes);
  nb::gil_scoped_release released;
  spconv_lite::gather_points(points.data_as<uint8_t>(), bytes.length(), rows.data_as<int64_t>(),
                             places.length(), values.data_as<uint8_t>());
}

void fill_means(const Tensor& values, const Tensor& number) {
  const native::DType dtype = float_or_double(values);
  Dim voxels("M"), points("P"), channels("C");
  require(values, "PointToVoxel", "voxels", cpu, dtype, voxels, points, channels);
  require(number, "PointToVoxel", "num_per_voxel", cpu, native::int32, voxels);
  by_wide_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    spconv_lite::fill_means<T>(values.data_as<T>(), number.data_as<int32_t>(), voxels.length(),
                               points.length(), channels.length());
  });
}

int64_t site_keys(const Tensor& indices, int64_t batch_size, const std::vector<int64_t>& shape,
                  const Tensor& keys) {
  Dim n("N");
  const int64_t ndim = static_cast<int64_t>(shape.size());
  require(indices, "site_keys", "indices", cpu, native::int32, n, ndim + 1);
  require(keys, "site_keys", "keys", cpu, native::int64, n);
  nb::gil_scoped_release released;
  return spconv_lite::site_keys(indices.data_as<int32_t>(), n.length(), ndim, batch_size, shape.data(),
                                keys.data_as<int64_t>());
}

bool sort_keys(const Tensor& keys, int64_t limit, const Tensor& sorted, const Tensor& order) {
  Dim n("N");
  require(keys, "sort_keys", "keys", cpu, native::int64, n);
  require(sorted, "sort_keys", "sorted", cpu, native::int64, n);
  require(order, "sort_keys", "order", cpu, native::int64, n);
  nb::gil_scoped_release released;
  return spconv_lite::sort_keys(keys.data_as<int64_t>(), n.length(), limit, sorted.data_as<int64_t>(),
                                order.data_as<int64_t>());
}

}  // namespace

void bind_voxels(nb::module_& m) {
  m.def("number_voxels", &bindings::number_voxels);
  m.def("list_voxels", &bindings::list_voxels);
  m.def("gather_points", &bindings::gather_points);
  m.def("fill_means", &bindings::fill_means);
  m.def("site_keys", &bindings::site_keys);
  m.def("sort_keys", &bindings::sort_keys);
}

}  // namespace spconv_lite::bindings
