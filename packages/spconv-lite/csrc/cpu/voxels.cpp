// See voxels.h. The table is open-addressed with Fibonacci hashing; the sort is by digits of 11 bits, least
// significant first, which keeps equal keys in their order (Knuth, The Art of Computer Programming 3, 5.2.5).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <cpu/pairs.h>
#include <cpu/scratch.h>
#include <cpu/voxels.h>

namespace spconv_lite {

namespace {

constexpr int64_t ahead = 256;  // keys made before they are looked up, so that memory is asked for early
constexpr int digit_bits = 11;

struct Entry {
  int64_t key;  // -1: free
  int64_t voxel;
};

// A point's cell on each axis, or false where it has none.
template <class T>
struct Cells {
  explicit Cells(const VoxelGrid& g) : ndim(static_cast<int>(g.ndim)) {
    for (int axis = 0; axis < ndim; ++axis) {
      low[axis] = static_cast<T>(g.low[axis]);
      size[axis] = static_cast<T>(g.size[axis]);
      cells[axis] = static_cast<T>(g.cells[axis]);
    }
  }

  bool find(const T* point, int64_t* at) const {
    for (int axis = 0; axis < ndim; ++axis) {
      const T cell = std::floor((point[axis] - low[axis]) / size[axis]);
      if (!(cell >= 0 && cell < cells[axis])) return false;  // not a number compares false
      at[axis] = static_cast<int64_t>(cell);
    }
    return true;
  }

  int ndim;
  T low[4], size[4], cells[4];
};

}  // namespace

template <class T>
int64_t number_voxels(const T* points, int64_t count, int64_t stride, const VoxelGrid& grid,
                      int64_t most_voxels, int64_t* voxel) {
  const Cells<T> cells(grid);
  int64_t slots = 1024;
  while (slots < 2 * count) slots *= 2;
  const uint64_t mask = static_cast<uint64_t>(slots) - 1;
  const Scratch<Entry> table(slots);
  std::fill_n(table.get(), slots, Entry{-1, 0});
  int64_t found = 0, keys[ahead];
  for (int64_t begin = 0; begin < count; begin += ahead) {
    const int64_t end = std::min(count, begin + ahead);
    for (int64_t i = begin; i < end; ++i) {
      int64_t at[4], key = 0;
      if (!cells.find(points + i * stride, at)) {
        keys[i - begin] = -1;
        continue;
      }
      for (int axis = cells.ndim - 1; axis >= 0; --axis) key = key * grid.cells[axis] + at[axis];
      keys[i - begin] = key;
      __builtin_prefetch(&table[static_cast<int64_t>(first_slot(key, mask))]);
    }
    for (int64_t i = begin; i < end; ++i) {
      const int64_t key = keys[i - begin];
      voxel[i] = -1;
      if (key < 0) continue;
      uint64_t slot = first_slot(key, mask);
      while (table[static_cast<int64_t>(slot)].key != key && table[static_cast<int64_t>(slot)].key >= 0)
        slot = (slot + 1) & mask;
      Entry& entry = table[static_cast<int64_t>(slot)];
      if (entry.key < 0) {
        if (found == most_voxels) continue;
        entry = {key, found++};
      }
      voxel[i] = entry.voxel;
    }
  }
  return found;
}

template <class T>
void list_voxels(const T* points, int64_t count, int64_t stride, const VoxelGrid& grid, const int64_t* voxel,
                 int64_t voxels, int64_t most_points, int32_t* indices, int32_t* number, int64_t* rows) {
  const Cells<T> cells(grid);
  std::fill_n(number, voxels, 0);
  std::fill_n(rows, voxels * most_points, int64_t{-1});
  for (int64_t i = 0; i < count; ++i) {
    const int64_t v = voxel[i];
    if (v < 0) continue;
    const int32_t held = number[v];
    if (held == 0) {
      int64_t at[4] = {};
      cells.find(points + i * stride, at);
      for (int axis = 0; axis < cells.ndim; ++axis)
        indices[v * cells.ndim + axis] = static_cast<int32_t>(at[cells.ndim - 1 - axis]);
    }
    if (held == most_points) continue;
    rows[v * most_points + held] = i;
    number[v] = held + 1;
  }
}

void gather_points(const uint8_t* points, int64_t bytes, const int64_t* rows, int64_t places,
                   uint8_t* values) {
  const size_t size = static_cast<size_t>(bytes);
  for (int64_t i = 0; i < places; ++i) {
    if (rows[i] < 0)
      std::memset(values + i * bytes, 0, size);
    else if (bytes == 16)  // four floats: one move
      std::memcpy(values + i * 16, points + rows[i] * 16, 16);
    else
      std::memcpy(values + i * bytes, points + rows[i] * bytes, size);
  }
}

template <class T>
void fill_means(T* values, const int32_t* number, int64_t voxels, int64_t most_points, int64_t channels) {
  for (int64_t v = 0; v < voxels; ++v) {
    T* const voxel = values + v * most_points * channels;
    for (int64_t c = 0; c < channels && number[v] < most_points; ++c) {
      T total = 0;
      for (int64_t p = 0; p < number[v]; ++p) total += voxel[p * channels + c];
      const T mean = total / static_cast<T>(number[v]);
      for (int64_t p = number[v]; p < most_points; ++p) voxel[p * channels + c] = mean;
    }
  }
}

int64_t site_keys(const int32_t* indices, int64_t rows, int64_t ndim, int64_t batch_size,
                  const int64_t* shape, int64_t* keys) {
  int64_t outside = -1;
  for (int64_t row = rows - 1; row >= 0; --row) {
    const int32_t* const at = indices + row * (ndim + 1);
    bool fits = at[0] >= 0 && at[0] < batch_size;
    uint64_t key = static_cast<uint64_t>(at[0]);  // wraps for a row outside
    for (int64_t axis = 0; axis < ndim; ++axis) {
      fits &= at[1 + axis] >= 0 && at[1 + axis] < shape[axis];
      key = key * static_cast<uint64_t>(shape[axis]) + static_cast<uint64_t>(at[1 + axis]);
    }
    keys[row] = static_cast<int64_t>(key);
    outside = fits ? outside : row;
  }
  return outside;
}

bool sort_keys(const int64_t* keys, int64_t count, int64_t limit, int64_t* sorted, int64_t* order) {
  constexpr int64_t digits = int64_t{1} << digit_bits;
  struct Item {
    int64_t key, place;
  };
  Scratch<Item> from(count), to(count);
  bool rising = true;
  for (int64_t i = 0; i < count; ++i) {
    from[i] = {keys[i], i};
    rising &= i == 0 || keys[i - 1] <= keys[i];
  }
  for (int shift = 0; !rising && shift < 63 && (limit - 1) >> shift > 0; shift += digit_bits) {
    int64_t next[digits] = {};
    for (int64_t i = 0; i < count; ++i) ++next[from[i].key >> shift & (digits - 1)];
    int64_t start = 0;
    for (int64_t d = 0; d < digits; ++d) start += std::exchange(next[d], start);
    for (int64_t i = 0; i < count; ++i) to[next[from[i].key >> shift & (digits - 1)]++] = from[i];
    std::swap(from, to);
  }
  for (int64_t i = 0; i < count; ++i) {
    sorted[i] = from[i].key;
    order[i] = from[i].place;
  }
  return rising;
}

#define SPCONV_LITE_VOXELS(T)                                                                               \
  template int64_t number_voxels(const T*, int64_t, int64_t, const VoxelGrid&, int64_t, int64_t*);          \
  template void list_voxels(const T*, int64_t, int64_t, const VoxelGrid&, const int64_t*, int64_t, int64_t, \
                            int32_t*, int32_t*, int64_t*);                                                  \
  template void fill_means(T*, const int32_t*, int64_t, int64_t, int64_t);
SPCONV_LITE_VOXELS(float)
SPCONV_LITE_VOXELS(double)
#undef SPCONV_LITE_VOXELS

}  // namespace spconv_lite
