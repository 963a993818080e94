// What is culled and drawn of an asset in three views, as hashes of cluster ids, depths and triangle ids.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cull/cull.h"
#include "hash.h"
#include "raster/raster.h"
#include "store/ncl_file.h"

using namespace nanite_cull;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto asset = std::make_shared<Asset>(read_ncl(argv[1], {}));
  Scene scene;
  const double identity[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
  scene.add(scene.add_asset(asset), identity, 1, 1);
  for (int turn = 0; turn < 3; ++turn) {
    View view;  // orthographic, along z
    const double scale = 0.5 + 0.25 * turn;
    const double matrix[16] = {scale, 0, 0, 0, 0, scale, 0, 0, 0, 0, 0.25, 0.5, 0, 0, 0, 1};
    std::copy(matrix, matrix + 16, view.relative_to_clip);
    std::fill(view.eye, view.eye + 3, 0.0);
    view.orthographic = true;
    view.width = view.height = 200;
    view.pixels_per_unit = 100 * scale;
    CullContext context;
    VisibleClusters visible;
    CullStats cull_stats;
    context.init_context(view, {});
    Draws draws;
    context.cull(scene, visible, cull_stats, &draws);
    VisibilityBuffer picture;
    RasterStats raster_stats;
    raster(draws, view, visible, {}, picture, raster_stats);
    std::vector<uint32_t> clusters;
    for (uint64_t i = 0; i < visible.small; ++i) clusters.push_back(visible.buffer[i].cluster);
    for (uint64_t i = 0; i < visible.large; ++i) clusters.push_back(visible.large_at(i).cluster);
    const auto drawn =
        std::count_if(picture.depth.begin(), picture.depth.end(), [](float d) { return d > 0; });
    std::printf("view %d: %zu clusters %016llx, %lld pixels %016llx %016llx\n", turn, clusters.size(),
                static_cast<unsigned long long>(hash_of(clusters)), static_cast<long long>(drawn),
                static_cast<unsigned long long>(hash_of(picture.depth)),
                static_cast<unsigned long long>(hash_of(picture.id)));
  }
}
