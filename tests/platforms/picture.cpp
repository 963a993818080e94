// A stored mesh in 25 places, culled and drawn from three sides: the clusters that are seen and the picture,
// as hashes. The argument is an .ncl file. The views are made without a function of libm.
#include <cull/cull.h>
#include <raster/raster.h>
#include <store/ncl_file.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "hash.h"

using namespace nanite_cull;

// From `distance` behind the origin, turned by an angle of sine `s` and cosine `c` about the vertical.
static View look(double s, double c, double distance) {
  constexpr int width = 192, height = 128;
  constexpr double focal = 1.5, near_distance = 0.1;
  const double matrix[16] = {focal * height / width * c,
                             0,
                             -focal * height / width * s,
                             0,
                             0,
                             focal,
                             0,
                             0,
                             0,
                             0,
                             0,
                             near_distance,
                             -s,
                             0,
                             -c,
                             0};
  const double eye[3] = {distance * s, 0.5, distance * c};
  View view;
  std::copy_n(matrix, 16, view.relative_to_clip);
  std::copy_n(eye, 3, view.eye);
  view.near_distance = static_cast<float>(near_distance);
  view.pixels_per_unit = static_cast<float>(focal * height / 2);
  view.width = width, view.height = height;
  return view;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  Scene scene;
  const auto asset =
      scene.add_asset(std::make_shared<const Asset>(read_ncl(NclBytes::of_file(argv[1]), ReadOptions())));
  for (int i = 0; i < 25; ++i) {
    const double place[12] = {1, 0, 0, i % 5 * 3.0 - 6, 0, 1, 0, 0, 0, 0, 1, i / 5 * 3.0 - 6};
    scene.add(asset, place, 1, 1);
  }
  const double turns[3][2] = {{0, 1}, {0.6, 0.8}, {0.8, -0.6}};
  for (const auto& turn : turns) {
    const View view = look(turn[0], turn[1], 9);
    CullContext context;
    VisibleClusters visible;
    CullStats cull_stats;
    Draws draws;
    context.init_context(view, {});
    context.cull(scene, visible, cull_stats, &draws);
    std::vector<uint32_t> seen;
    for (uint64_t i = 0; i < visible.small + visible.large; ++i) {
      const Visible& v = i < visible.small ? visible.buffer[i] : visible.large_at(i - visible.small);
      seen.insert(seen.end(), {v.instance, v.cluster});
    }
    VisibilityBuffer picture;
    RasterStats raster_stats;
    raster(draws, view, visible, {}, picture, raster_stats);
    const auto drawn =
        std::count_if(picture.depth.begin(), picture.depth.end(), [](float d) { return d > 0; });
    std::printf("%zu clusters %016llx, %lld pixels %016llx %016llx\n", seen.size() / 2,
                static_cast<unsigned long long>(hash_of(seen)), static_cast<long long>(drawn),
                static_cast<unsigned long long>(hash_of(picture.depth)),
                static_cast<unsigned long long>(hash_of(picture.id)));
  }
}
