// Kernels of light and pictures beside the CPU: the same share of each light, the same bytes.
#include <cull/cull.cu>
#include <raster/raster.cu>
#include <raster/two_pass.cu>
#include <resolve/resolve.cu>
#include <resolve/shade.cu>
#include <scene/device_pages.cu>
#include <scene/device_scene.cu>

#include "cusim_test.h"
#include "lamps.h"
#include "painted.h"
#include "resolve/hollows.h"
#include "sort.h"

namespace gpu = nanite_cull::cuda;
using namespace nanite_cull;
using cusim::Buffer;
using namespace painted;
using lamps::Lamps;
using lamps::ViewLens;

namespace {

const float ramp[9] = {0.1f, 0.2f, 0.9f, 0.5f, 0.6f, 0.1f, 0.9f, 0.3f, 0.2f};

struct Picture {
  std::vector<float> share, direct;
  std::vector<uint8_t> shaded[6], lit;
};

struct Beside {
  cusim::Device& device;
  Scene scene;
  CullContext context;
  VisibleClusters visible;
  Draws draws;
  VisibilityBuffer buffer;
  gpu::DeviceScene device_scene;
  gpu::Culler culler;
  gpu::Rasteriser rasteriser;
  gpu::Shader shader;

  explicit Beside(cusim::Device& on) : device(on) {}

  void draw(const View& view) {
    CullStats stats;
    RasterStats drawn;
    RasterOptions drawing;
    drawing.threads = 1;
    context.init_context(view, options());
    context.cull(scene, visible, stats, &draws, nullptr);
    raster(draws, view, visible, drawing, buffer, drawn);
    device_scene.update(scene, &device);
    culler.cull(device_scene, view, options(), &device);
    rasteriser.draw(device_scene, culler, view, {}, drawn, &device);
  }

  Shading shading(Base base, const std::vector<float>& background) const {
    Shading out;
    out.base = base, out.relief = 0.55f, out.top_level = 2;
    out.light[0] = 0.6f, out.light[1] = 0, out.light[2] = 0.8f;
    out.ramp = ramp, out.ramp_size = 3, out.background = background.data();
    return out;
  }

  Picture on_host(const View& view, const Lens& lens, const Lights& lights,
                  const std::vector<float>& background) {
    Picture out;
    out.share.assign(lights.lights.size() * buffer.id.size(), -7);
    out.direct.assign(buffer.id.size(), -7), out.lit.resize(3 * buffer.id.size());
    find_light(draws, visible, buffer, lens, view.eye, lights, {out.share.data(), out.direct.data()}, 1);
    for (int b = 0; b < 6; ++b) {
      out.shaded[b].resize(3 * buffer.id.size());
      shade(draws, visible, buffer, lens, shading(Base(b), background), out.shaded[b].data(), 1);
    }
    Shading lit = shading(Base::color, background);
    lit.direct = out.direct.data();
    shade(draws, visible, buffer, lens, lit, out.lit.data(), 1);
    return out;
  }

  Picture on_device(const View& view, const Lens& lens, const Lights& lights,
                    const std::vector<float>& background) {
    const size_t pixels = rasteriser.pixels().size();
    Picture out;
    Buffer<float> share(lights.lights.size() * pixels), direct(pixels);
    Buffer<float> maps(
        std::vector<float>(lights.depth, lights.depth + lights.maps.size() * lights.size * lights.size));
    Buffer<uint8_t> shaded(3 * pixels);
    shader.find_light(device_scene, culler, rasteriser, lens, view.eye, lights, maps.data(),
                      {share.data(), direct.data()}, &device);
    const auto shade = [&](const Shading& how) {
      shader.shade(device_scene, culler, rasteriser, lens, how, shaded.data(), &device);
      device.wait();
      return shaded.host();
    };
    for (int b = 0; b < 6; ++b) out.shaded[b] = shade(shading(Base(b), background));
    Shading lit = shading(Base::color, background);
    lit.direct = direct.data();
    out.lit = shade(lit);
    out.share = share.host(), out.direct = direct.host();
    return out;
  }
};

void require_equal(const Picture& got, const Picture& want) {
  CUSIM_REQUIRE(got.share == want.share);
  CUSIM_REQUIRE(got.direct == want.direct);
  for (int b = 0; b < 6; ++b) CUSIM_REQUIRE(got.shaded[b] == want.shaded[b]);
  CUSIM_REQUIRE(got.lit == want.lit);
}

std::vector<float> background_of(int height, scenes::Random& random) {
  std::vector<float> out;
  for (int i = 0; i < 3 * height; ++i) out.push_back(static_cast<float>(random(0, 1)));
  return out;
}

}  // namespace

CUSIM_CASE(light_and_pictures_are_those_of_the_host) {
  scenes::Random random(device.config.seed);
  Beside beside(device);
  fill(beside.scene, 8, random);
  size_t arrived = 0, soft = 0, dark = 0;
  for (const double distance : {6.0, 0.4, -3.0}) {  // the second crosses the near plane
    const View view = look(random, distance, 61, 43);
    const Lamps lamps(random);
    const std::vector<float> background = background_of(view.height, random);
    beside.draw(view);
    for (const bool orthographic : {false, true}) {
      const ViewLens of(view, orthographic);
      const Picture want = beside.on_host(view, of.lens, lamps.all, background);
      require_equal(beside.on_device(view, of.lens, lamps.all, background), want);
      for (const float share : want.share) {
        arrived += share == 1, dark += share == 0;
        soft += share > 0 && share < 1;
      }
      CUSIM_REQUIRE(want.shaded[1] != want.shaded[0] && want.lit != want.shaded[1]);
    }
  }
  CUSIM_REQUIRE(arrived > 0 && soft > 0 && dark > 0);
}

// Squares of 2 * 5 + 1 and 2 * 20 + 1 pixels, wider than the image and not; tiles of the host meet in it.
CUSIM_CASE(hollows_are_those_of_the_host_at_any_size) {
  scenes::Random random(device.config.seed);
  Beside beside(device);
  fill(beside.scene, 8, random);
  for (const auto& size : {std::pair{9, 930}, std::pair{270, 2}, std::pair{30, 140}}) {
    const View view = look(random, 5, size.first, size.second);
    const std::vector<float> background = background_of(view.height, random);
    beside.draw(view);
    const ViewLens of(view, false);
    const size_t pixels = beside.buffer.id.size();
    std::vector<uint8_t> want(3 * pixels), flat(3 * pixels);
    Shading shading = beside.shading(Base::plain, background);
    Buffer<uint8_t> got(3 * pixels);
    shade(beside.draws, beside.visible, beside.buffer, of.lens, shading, want.data(), 1);
    beside.shader.shade(beside.device_scene, beside.culler, beside.rasteriser, of.lens, shading, got.data(),
                        &device);
    device.wait();
    CUSIM_REQUIRE(got.host() == want);
    shading.relief = 0;
    shade(beside.draws, beside.visible, beside.buffer, of.lens, shading, flat.data(), 1);
    CUSIM_REQUIRE(size.second < 9 || want != flat);
  }
}

CUSIM_CASE(nothing_is_lit_and_shows_the_background) {
  scenes::Random random(device.config.seed);
  Beside beside(device);
  const View view = look(random, 3, 7, 3);
  const Lamps lamps(random);
  const std::vector<float> background = background_of(view.height, random);
  beside.draw(view);
  const ViewLens of(view, false);
  const Picture got = beside.on_device(view, of.lens, lamps.all, background);
  require_equal(got, beside.on_host(view, of.lens, lamps.all, background));
  CUSIM_REQUIRE(got.direct == std::vector<float>(21, 0.0f) && got.lit == got.shaded[0]);
}

CUSIM_MAIN
