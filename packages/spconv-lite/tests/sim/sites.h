// Random geometries and sites, and the rulebook by brute force: what the simulated kernels must produce.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>
#include <vector>

#include <core/rulebook.h>

namespace sim {

using spconv_lite::Geometry;
using spconv_lite::max_axes;
using Coordinates = std::array<int64_t, 1 + max_axes>;  // batch and four axes
using Pairs = std::vector<std::pair<int32_t, int32_t>>;

enum class Kind { submanifold, convolution, transposed };

struct Random {
  std::mt19937_64 engine;
  explicit Random(uint64_t seed) : engine(seed) {}
  int64_t operator()(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(engine() % static_cast<uint64_t>(most - least + 1));
  }
};

// The usual output sizes of torch; 0 or less where the kernel does not fit.
inline int64_t out_size(const Geometry& g, Kind kind, int axis) {
  const int64_t reach = g.dilation[axis] * (g.kernel[axis] - 1);
  if (kind == Kind::submanifold) return g.in_shape[axis];
  if (kind == Kind::transposed)
    return (g.in_shape[axis] - 1) * g.stride[axis] - 2 * g.padding[axis] + reach + 1;
  const int64_t room = g.in_shape[axis] + 2 * g.padding[axis] - reach - 1;
  return room < 0 ? 0 : room / g.stride[axis] + 1;
}

// A layer of `ndim` axes of the given length; tries until every output axis has a cell.
inline Geometry random_geometry(Random& random, int ndim, Kind kind, int64_t length, int64_t most_kernel) {
  for (;;) {
    Geometry g;
    g.ndim = ndim;
    g.batch_size = random(1, 3);
    bool fits = true;
    for (int axis = max_axes - ndim; axis < max_axes; ++axis) {
      g.in_shape[axis] = random((length + 1) / 2, length);
      g.kernel[axis] = random(1, most_kernel);
      g.dilation[axis] = random(1, 2);
      if (kind == Kind::submanifold) {
        g.padding[axis] = g.kernel[axis] / 2 * g.dilation[axis];
      } else {
        g.stride[axis] = random(1, 3);
        g.padding[axis] = random(0, 1);
      }
      g.out_shape[axis] = out_size(g, kind, axis);
      fits = fits && g.out_shape[axis] > 0;
    }
    if (fits) return g;
  }
}

// At most `rows` different sites, in random order, as int32 (N, 1 + ndim). In a large grid they lie in a
// cluster at either end, so that they have neighbours and large coordinates.
inline std::vector<int32_t> random_sites(Random& random, const Geometry& g, int64_t rows) {
  std::set<Coordinates> sites;
  for (int64_t i = 0; i < rows; ++i) {
    Coordinates c{random(0, g.batch_size - 1), 0, 0, 0, 0};
    const bool far = random(0, 1) != 0;
    for (int axis = 0; axis < max_axes; ++axis) {
      const int64_t near = random(0, std::min<int64_t>(g.in_shape[axis], 8) - 1);
      c[1 + axis] = far ? g.in_shape[axis] - 1 - near : near;
    }
    sites.insert(c);
  }
  std::vector<Coordinates> order(sites.begin(), sites.end());
  std::shuffle(order.begin(), order.end(), random.engine);
  std::vector<int32_t> indices;
  for (const Coordinates& c : order) {
    indices.push_back(static_cast<int32_t>(c[0]));
    for (int axis = max_axes - g.ndim; axis < max_axes; ++axis)
      indices.push_back(static_cast<int32_t>(c[1 + axis]));
  }
  return indices;
}

struct Expected {
  std::vector<int32_t> out_indices;  // row-major; for a submanifold the input
  std::vector<Pairs> pairs;          // by kernel offset, sorted
};

inline std::vector<Coordinates> coordinates_of(const std::vector<int32_t>& indices, int ndim) {
  std::vector<Coordinates> all;
  for (size_t i = 0; i < indices.size(); i += 1 + static_cast<size_t>(ndim)) {
    Coordinates c{indices[i], 0, 0, 0, 0};
    for (int axis = 0; axis < ndim; ++axis) c[1 + max_axes - ndim + axis] = indices[i + 1 + axis];
    all.push_back(c);
  }
  return all;
}

// Every input site and kernel offset in turn; no function of the library is used.
inline Expected brute_force(const std::vector<int32_t>& indices, const Geometry& g, Kind kind) {
  const std::vector<Coordinates> in = coordinates_of(indices, g.ndim);
  std::map<Coordinates, int32_t> out_row;
  std::vector<std::tuple<int64_t, int32_t, Coordinates>> reached;
  for (size_t row = 0; row < in.size(); ++row) {
    if (kind == Kind::submanifold) out_row[in[row]] = static_cast<int32_t>(row);
    int64_t k = 0, o[max_axes];
    for (o[0] = 0; o[0] < g.kernel[0]; ++o[0])
      for (o[1] = 0; o[1] < g.kernel[1]; ++o[1])
        for (o[2] = 0; o[2] < g.kernel[2]; ++o[2])
          for (o[3] = 0; o[3] < g.kernel[3]; ++o[3], ++k) {
            Coordinates c = in[row];
            bool fits = true;
            for (int axis = 0; axis < max_axes; ++axis) {
              const int64_t shift = o[axis] * g.dilation[axis], s = g.stride[axis], p = g.padding[axis];
              int64_t& x = c[1 + axis];
              if (kind == Kind::transposed)
                x = x * s - p + shift;
              else if (x = x + p - shift; x % s != 0)
                fits = false;
              else
                x /= s;
              fits = fits && x >= 0 && x < g.out_shape[axis];
            }
            if (fits) reached.emplace_back(k, static_cast<int32_t>(row), c);
          }
  }
  Expected expected;
  expected.pairs.resize(static_cast<size_t>(g.volume()));
  if (kind == Kind::submanifold) {
    expected.out_indices = indices;
  } else {
    for (const auto& [k, row, c] : reached) out_row[c] = 0;
    int32_t next = 0;
    for (auto& [c, row] : out_row) {
      row = next++;
      expected.out_indices.push_back(static_cast<int32_t>(c[0]));
      for (int axis = max_axes - g.ndim; axis < max_axes; ++axis)
        expected.out_indices.push_back(static_cast<int32_t>(c[1 + axis]));
    }
  }
  for (const auto& [k, row, c] : reached)
    if (const auto found = out_row.find(c); found != out_row.end())
      expected.pairs[static_cast<size_t>(k)].emplace_back(row, found->second);
  for (Pairs& pairs : expected.pairs) std::sort(pairs.begin(), pairs.end());
  return expected;
}

}  // namespace sim
