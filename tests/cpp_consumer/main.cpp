// A C++ project without Python or torch: how many neighbours do eight voxels in a cube have?
#include <spconv_lite/cpu/rulebook.h>

#include <cstdio>
#include <vector>

int main() {
  std::vector<int32_t> indices;  // (8, 4): batch, z, y, x
  for (int32_t corner = 0; corner < 8; ++corner)
    for (int32_t value : {0, 4 + corner / 4, 4 + corner / 2 % 2, 4 + corner % 2}) indices.push_back(value);

  spconv_lite::Geometry geometry;
  for (int axis = 1; axis < spconv_lite::max_axes; ++axis) {
    geometry.in_shape[axis] = geometry.out_shape[axis] = 10;
    geometry.kernel[axis] = 3;
    geometry.padding[axis] = 1;
  }
  const spconv_lite::Rulebook book(indices.data(), 8, geometry, spconv_lite::Kind::submanifold, 2);
  std::printf("%lld pairs\n", static_cast<long long>(book.pairs()));
  return book.pairs() == 64 ? 0 : 1;  // every corner of a 2x2x2 cube sees all eight
}
