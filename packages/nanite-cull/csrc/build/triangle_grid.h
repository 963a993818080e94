// The triangle of a patch that is nearest to a point: a uniform grid.
// Point to triangle after Ericson, "Real-Time Collision Detection" (2005), 5.1.5.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace nanite_cull {

struct Vec {
  float x, y, z;
};
inline Vec operator-(Vec a, Vec b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec operator+(Vec a, Vec b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec operator*(float s, Vec a) { return {s * a.x, s * a.y, s * a.z}; }
inline float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec cross(Vec a, Vec b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// Squared distance of a point to a triangle.
float distance_squared(Vec p, Vec a, Vec b, Vec c);

class TriangleGrid {
 public:
  // Borrows both arrays: (vertices, 3) positions and three corners for each triangle.
  TriangleGrid(const std::vector<float>& positions, const std::vector<uint32_t>& indices);

  size_t triangle_count() const { return indices_.size() / 3; }
  Vec vertex(uint32_t v) const { return {p_[3 * size_t(v)], p_[3 * size_t(v) + 1], p_[3 * size_t(v) + 2]}; }
  Vec corner(uint32_t triangle, int c) const { return vertex(indices_[3 * size_t(triangle) + c]); }
  uint32_t index(uint32_t triangle, int c) const { return indices_[3 * size_t(triangle) + c]; }
  float to_triangle(Vec p, uint32_t t) const {
    return distance_squared(p, corner(t, 0), corner(t, 1), corner(t, 2));
  }

  // The nearest triangle, and its squared distance. `hint` is any triangle, best a near one.
  uint32_t nearest(Vec p, uint32_t hint, float& square) const;

 private:
  int cell(float x, int axis) const {
    return std::clamp(static_cast<int>((x - lo_[axis]) * inverse_), 0, n_[axis] - 1);
  }
  const std::vector<float>& p_;
  const std::vector<uint32_t>& indices_;
  float lo_[3], size_ = 1, inverse_ = 1;
  int n_[3];
  std::vector<uint32_t> begin_, members_;
};

}  // namespace nanite_cull
