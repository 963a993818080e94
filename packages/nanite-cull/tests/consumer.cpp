// A C++ project that uses the core alone: builds a grid, validates it, draws it, and says what it saw.
#include <algorithm>
#include <cstdio>

#include "build/build.h"
#include "build/meshopt_api.h"
#include "build/validate.h"
#include "cull/cull.h"
#include "raster/raster.h"

using namespace nanite_cull;

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  open_meshopt(argv[1]);
  const int side = 65;
  std::vector<float> positions;
  std::vector<uint32_t> faces;
  for (uint32_t i = 0; i < side; ++i)
    for (uint32_t j = 0; j < side; ++j) {
      positions.insert(positions.end(), {i / 32.0f - 1, j / 32.0f - 1, -0.5f});
      const uint32_t a = i * side + j, c = a + side;
      if (i + 1 < side && j + 1 < side) faces.insert(faces.end(), {a, c, a + 1, a + 1, c, c + 1});
    }
  MeshInput mesh;
  mesh.positions = positions.data(), mesh.vertex_count = side * side;
  mesh.faces = faces.data(), mesh.face_count = static_cast<int64_t>(faces.size() / 3);
  auto asset = std::make_shared<Asset>(build(mesh, {}, {}));
  for (const std::string& problem : validate(*asset, 5)) std::printf("%s\n", problem.c_str());

  Scene scene;
  const double identity[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
  scene.add(scene.add_asset(asset), identity, 1, 1);
  View view;  // orthographic: the square fills the image
  const double matrix[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1};
  std::copy(matrix, matrix + 16, view.relative_to_clip);
  std::fill(view.eye, view.eye + 3, 0.0);
  view.orthographic = true;
  view.width = view.height = 64;
  view.pixels_per_unit = 32;
  CullContext context;
  VisibleClusters visible;
  CullStats cull_stats;
  context.init_context(view, {});
  Draws draws;
  context.cull(scene, visible, cull_stats, &draws);
  VisibilityBuffer picture;
  RasterStats raster_stats;
  raster(draws, view, visible, {}, picture, raster_stats);
  int drawn = 0;
  for (float depth : picture.depth) drawn += depth > 0;
  std::printf("%zu clusters, %d pixels\n", asset->clusters.size(), drawn);
}
