// Points to voxels, and sites in order: hashing and radix sort over 64-bit keys. Nothing here depends on the
// number of threads.
#pragma once

#include <cstdint>

namespace spconv_lite {

// A grid over points: axis 0 is the points' first column (x). A point is in cell floor((p - low) / size),
// computed in T.
struct VoxelGrid {
  int64_t ndim;
  double low[4], size[4];
  int64_t cells[4];
};

// voxel (points) = the number of each point's voxel, or -1: outside the grid, not finite, or in a voxel
// beyond the first `most_voxels`; voxels are numbered in the order of their first points. Returns how many
// there are.
template <class T>
int64_t number_voxels(const T* points, int64_t count, int64_t stride, const VoxelGrid& grid,
                      int64_t most_voxels, int64_t* voxel);

// From what number_voxels gave: indices (voxels, ndim), last axis x; number (voxels), at most most_points;
// and rows (voxels, most_points): the points of each voxel in their order, -1 where there are fewer.
template <class T>
void list_voxels(const T* points, int64_t count, int64_t stride, const VoxelGrid& grid, const int64_t* voxel,
                 int64_t voxels, int64_t most_points, int32_t* indices, int32_t* number, int64_t* rows);

// values (voxels, most_points, bytes) = points (count, bytes) at `rows`, zero bytes for -1.
void gather_points(const uint8_t* points, int64_t bytes, const int64_t* rows, int64_t places,
                   uint8_t* values);

// Unused places of values (voxels, most_points, channels) = the mean of the voxel's points, summed in order.
template <class T>
void fill_means(T* values, const int32_t* number, int64_t voxels, int64_t most_points, int64_t channels);

// keys (rows) = the place of each site in the dense array (batch_size, shape...); indices int32 (rows, 1 +
// ndim). Returns the first row outside the grid, or -1. The array has at most 2^63 - 1 cells.
int64_t site_keys(const int32_t* indices, int64_t rows, int64_t ndim, int64_t batch_size,
                  const int64_t* shape, int64_t* keys);

// Sorts keys in [0, limit), and gives the place that each had: equal keys stay in their order.
// Returns whether they were in order before.
bool sort_keys(const int64_t* keys, int64_t count, int64_t limit, int64_t* sorted, int64_t* order);

}  // namespace spconv_lite
