// nanite-cull's core from C++: the raster's rules, a scene that changes, and files that are damaged.
#include <build/vertex_codes.h>
#include <raster/raster.h>
#include <store/ncl_file.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "native/check.h"
#include "testing.h"

using namespace nanite_cull;

namespace {

constexpr float identity[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};

// A grid of squares over [-1, 1], two triangles each, at depths that differ from square to square.
struct Mesh {
  std::vector<float> positions;
  std::vector<uint32_t> faces;

  explicit Mesh(int squares) {
    for (int row = 0; row <= squares; ++row)
      for (int column = 0; column <= squares; ++column) {
        positions.push_back(2.f * column / squares - 1);
        positions.push_back(2.f * row / squares - 1);
        positions.push_back(0.25f + 0.5f * ((row * 7 + column * 3) % 11) / 11);
      }
    for (int row = 0; row < squares; ++row)
      for (int column = 0; column < squares; ++column) {
        const uint32_t a = row * (squares + 1) + column, b = a + squares + 1;
        faces.insert(faces.end(), {a, a + 1, b, b, a + 1, b + 1});
      }
  }
  VisibilityBuffer draw(int threads) const {
    VisibilityBuffer out;
    RasterOptions options;
    options.overdraw = true;
    options.threads = threads;
    raster_triangles(positions.data(), static_cast<int64_t>(positions.size()) / 3, faces.data(),
                     static_cast<int64_t>(faces.size()) / 3, identity, options, 131, 77, out);
    return out;
  }
};

}  // namespace

TEST("triangles that share edges cover every pixel once") {
  for (int squares : {1, 7, 40}) {
    const VisibilityBuffer drawn = Mesh(squares).draw(3);
    EXPECT(
        std::all_of(drawn.overdraw.begin(), drawn.overdraw.end(), [](uint32_t times) { return times == 1; }));
    EXPECT(std::all_of(drawn.depth.begin(), drawn.depth.end(), [](float depth) { return depth > 0; }));
  }
}

TEST("a picture has the same bits for any number of threads") {
  const VisibilityBuffer one = Mesh(23).draw(1), five = Mesh(23).draw(5);
  EXPECT(one.id == five.id && one.depth == five.depth && one.overdraw == five.overdraw);
}

TEST("readers of a scene wait for the one who changes it") {
  Scene scene;
  auto asset = std::make_shared<Asset>();
  asset->sphere = {0, 0, 0, 1};
  const uint32_t number = scene.add_asset(asset);
  std::vector<double> transforms;
  for (int i = 0; i < 100; ++i)
    transforms.insert(transforms.end(), {1, 0, 0, double(i), 0, 1, 0, 0, 0, 0, 1, 0});
  EXPECT(scene.add(number, transforms.data(), 100, 3) == 0);
  scene.hide(0, 100, true);  // the asset has nothing to draw
  View view{};
  for (int i = 0; i < 4; ++i) view.relative_to_clip[5 * i] = 1;
  CullContext context;
  context.init_context(view, CullOptions{});
  std::thread writer([&] {
    for (int64_t i = 0; i < 50; ++i) scene.update(i, transforms.data(), 1, 1), scene.hide(i, 1, true);
    scene.remove(0, 10);
  });
  VisibleClusters visible;
  for (int frame = 0; frame < 20; ++frame) {
    CullStats stats;
    context.cull(scene, visible, stats, nullptr);
    EXPECT((stats.instances == 100 || stats.instances == 90) && stats.visible_instances == 0);
  }
  writer.join();
  EXPECT(scene.size() == 90);
  EXPECT(scene.hidden(0) && scene.hidden(89));
}

TEST("what is no whole file is refused, whatever its bytes") {
  std::vector<uint8_t> bytes(4096);
  uint32_t state = 3;
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  int refused = 0;
  for (size_t size : {size_t(0), size_t(7), size_t(64), bytes.size()}) try {
      read_ncl({bytes.data(), size}, ReadOptions{});
    } catch (const native::ValueError&) {
      ++refused;
    }
  EXPECT(refused == 4);
}

TEST("a texture coordinate goes there and back, and no code overflows") {
  const float step = 1.0f / 4096;
  for (const float value : {0.0f, 0.25f, -3.5f, 4095.0f, -5000.0f, 1e6f, 1e17f, -1e17f}) {
    const float again = decode_uv(encode_uv(value, step), step);
    EXPECT(std::fabs(again - value) <= std::max(step / 2, std::fabs(value) * 1e-6f));
  }
  const int32_t most = std::numeric_limits<int32_t>::max(), least = std::numeric_limits<int32_t>::min();
  EXPECT(decode_uv(most, step) == INFINITY && decode_uv(least, step) == -INFINITY);
}

RUN_TESTS()
