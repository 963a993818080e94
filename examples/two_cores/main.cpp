// Two cores in one C++ program, without Python or torch: nanite-cull draws the depth of a bumpy sheet, its
// pixels become voxels, and spconv-lite says how many neighbours these have.
#include <nanite_cull/raster/raster.h>
#include <spconv_lite/cpu/rulebook.h>

#include <cmath>
#include <cstdio>
#include <set>
#include <tuple>
#include <vector>

namespace {

constexpr int squares = 64, width = 160, height = 120, cells = 40;
constexpr float identity[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};  // relative to clip space

// Vertices (x, y, depth) of a sheet over [-1, 1] with waves, and two triangles for each of its squares.
nanite_cull::VisibilityBuffer draw_sheet() {
  std::vector<float> positions;
  std::vector<uint32_t> faces;
  for (int row = 0; row <= squares; ++row)
    for (int column = 0; column <= squares; ++column) {
      const float x = 2.f * column / squares - 1, y = 2.f * row / squares - 1;
      positions.insert(positions.end(), {x, y, 0.5f + 0.2f * std::sin(5 * x) * std::cos(4 * y)});
    }
  for (uint32_t row = 0; row < squares; ++row)
    for (uint32_t column = 0; column < squares; ++column) {
      const uint32_t a = row * (squares + 1) + column, b = a + squares + 1;
      faces.insert(faces.end(), {a, a + 1, b, b, a + 1, b + 1});
    }
  nanite_cull::VisibilityBuffer picture;
  nanite_cull::raster_triangles(positions.data(), int64_t(positions.size()) / 3, faces.data(),
                                int64_t(faces.size()) / 3, identity, nanite_cull::RasterOptions{}, width,
                                height, picture);
  return picture;
}

// Indices (N, 4) int32 of the cells of a cube that hold a drawn pixel: batch, z (depth), y, x.
std::vector<int32_t> occupied_cells(const nanite_cull::VisibilityBuffer& picture) {
  std::set<std::tuple<int32_t, int32_t, int32_t>> found;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      if (const float depth = picture.depth[y * width + x]; depth > 0)
        found.insert({int32_t(depth * cells), y * cells / height, x * cells / width});
  std::vector<int32_t> indices;
  for (const auto& [z, y, x] : found) indices.insert(indices.end(), {0, z, y, x});
  return indices;
}

}  // namespace

int main() {
  const std::vector<int32_t> indices = occupied_cells(draw_sheet());
  spconv_lite::Geometry geometry;
  for (int axis = 1; axis < spconv_lite::max_axes; ++axis) {
    geometry.in_shape[axis] = geometry.out_shape[axis] = cells;
    geometry.kernel[axis] = 3;
    geometry.padding[axis] = 1;
  }
  const auto voxels = static_cast<int64_t>(indices.size()) / 4;
  const spconv_lite::Rulebook book(indices.data(), voxels, geometry, spconv_lite::Kind::submanifold, 2);
  std::printf("%lld voxels, %lld pairs\n", static_cast<long long>(voxels),
              static_cast<long long>(book.pairs()));
  return voxels >= cells * cells && book.pairs() > 5 * voxels ? 0
                                                              : 1;  // a sheet: every column of cells is seen
}
