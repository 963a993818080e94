// The rulebooks of random sites in 1 to 4 dimensions, of each kind, as hashes.
#include <cpu/rulebook.h>

#include <algorithm>
#include <cstdio>

#include "hash.h"

using namespace spconv_lite;

// Distinct sites (batch and four axes) of a grid with `side` cells along the last `ndim` axes.
static std::vector<int32_t> random_sites(int ndim, int32_t side, size_t count) {
  std::vector<int64_t> cells;
  int64_t all = 2;
  for (int axis = 0; axis < ndim; ++axis) all *= side;
  for (uint64_t state = 1; cells.size() < count;) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const int64_t cell = static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(all));
    if (std::find(cells.begin(), cells.end(), cell) == cells.end()) cells.push_back(cell);
  }
  std::vector<int32_t> sites;
  for (int64_t cell : cells) {
    std::vector<int32_t> row(1 + ndim);
    for (int axis = ndim; axis > 0; --axis, cell /= side) row[axis] = static_cast<int32_t>(cell % side);
    row[0] = static_cast<int32_t>(cell);
    sites.insert(sites.end(), row.begin(), row.end());
  }
  return sites;
}

int main() {
  const Kind kinds[] = {Kind::submanifold, Kind::convolution, Kind::transposed};
  for (int ndim = 1; ndim <= 4; ++ndim)
    for (int kind = 0; kind < 3; ++kind) {
      const int32_t side = ndim == 1 ? 4000 : ndim == 2 ? 60 : ndim == 3 ? 18 : 9;
      const int32_t step = kind == 0 ? 1 : 2, pad = kind == 2 ? 0 : 1;
      Geometry geometry;
      geometry.batch_size = 2;
      geometry.ndim = ndim;
      for (int axis = max_axes - ndim; axis < max_axes; ++axis) {
        geometry.in_shape[axis] = side;
        geometry.kernel[axis] = 3;
        geometry.stride[axis] = step;
        geometry.padding[axis] = pad;
        geometry.out_shape[axis] = kind == 0 ? side : kind == 1 ? (side - 1) / 2 + 1 : (side - 1) * 2 + 3;
      }
      const std::vector<int32_t> sites = random_sites(ndim, side, 2000);
      const Rulebook book(sites.data(), 2000, geometry, kinds[kind], 2);
      std::vector<int32_t> pair_in(book.pairs()), out_indices;
      std::vector<uint8_t> pair_out(book.pairs());
      std::vector<int64_t> offsets(book.block_offsets());
      book.write_compact(pair_in.data(), pair_out.data(), offsets.data());
      if (kind != 0) {
        out_indices.resize(book.out_rows() * (1 + ndim));
        book.write_out_indices(out_indices.data());
      }
      std::printf("%d axes, kind %d: %lld pairs %016llx %016llx %016llx %016llx\n", ndim, kind,
                  static_cast<long long>(book.pairs()), static_cast<unsigned long long>(hash_of(pair_in)),
                  static_cast<unsigned long long>(hash_of(pair_out)),
                  static_cast<unsigned long long>(hash_of(offsets)),
                  static_cast<unsigned long long>(hash_of(out_indices)));
    }
}
