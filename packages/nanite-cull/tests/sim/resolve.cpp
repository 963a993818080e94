// Resolving kernels beside the CPU: the same numbers for every pixel.
#include <cull/cull.cu>
#include <raster/raster.cu>
#include <raster/two_pass.cu>
#include <resolve/resolve.cu>
#include <scene/device_pages.cu>
#include <scene/device_scene.cu>

#include <fstream>

#include "core/requests.h"
#include "cusim_test.h"
#include "painted.h"
#include "resolve/albedo.h"
#include "resolve/resolve.h"
#include "sort.h"
#include "store/ncl_file.h"

namespace gpu = nanite_cull::cuda;
using namespace nanite_cull;
using cusim::Buffer;
using namespace painted;

namespace {

// The planes of an image, by the host or by the device.
struct Planes {
  std::vector<uint32_t> ids[5];
  std::vector<float> normal, uv, color, velocity, albedo;

  explicit Planes(size_t pixels)
      : normal(3 * pixels, -7.0f),
        uv(2 * pixels, -7.0f),
        color(4 * pixels, -7.0f),
        velocity(2 * pixels, -7.0f),
        albedo(4 * pixels, -7.0f) {
    for (auto& plane : ids) plane.assign(pixels, 7u);
  }
};

struct Host {
  CullContext context;
  History history;
  VisibleClusters visible;
  Draws draws;
  VisibilityBuffer buffer;
  Motion motion;
  CullStats stats;
  RasterStats drawn;

  Planes draw(const Scene& scene, const View& view, const Streamer* streamer = nullptr) {
    RasterOptions drawing;
    drawing.threads = 1;
    history.begin_frame();
    context.init_context(view, options());
    draw_two_pass(context, scene, view, drawing, history, visible, draws, buffer, stats, drawn, streamer,
                  &motion);
    Planes out(buffer.id.size());
    ResolveTargets t;
    t.instance = out.ids[0].data(), t.cluster = out.ids[1].data(), t.triangle = out.ids[2].data();
    t.level = out.ids[3].data(), t.material = out.ids[4].data();
    t.normal = out.normal.data(), t.uv = out.uv.data(), t.color = out.color.data();
    t.velocity = out.velocity.data();
    resolve(draws, view, visible, buffer, motion, t, 1);
    resolve_albedo(draws, view, visible, buffer, out.albedo.data(), 1);
    return out;
  }
};

struct Device {
  gpu::DeviceScene scene;
  gpu::Culler culler;
  gpu::Rasteriser rasteriser;
  gpu::DeviceHistory occluders;
  gpu::Resolver resolver;
  History history;  // of what moved

  Planes draw(cusim::Device& device, const Scene& from, const View& view, bool occlusion,
              Traversal traversal = Traversal::levels, const Streamer* streamer = nullptr) {
    RasterStats drawn;
    const Streamer::Hold streamed(streamer);
    scene.update(from, &device, streamed);
    history.enter(from), history.begin_frame();
    if (occlusion) {
      occluders.draw(scene, culler, rasteriser, {view}, true, options(traversal), {}, drawn, &device);
    } else {
      culler.cull(scene, view, options(traversal), &device);
      rasteriser.draw(scene, culler, view, {}, drawn, &device);
    }
    resolver.find_motion(scene, culler, from, *history.track, history.before, &device);
    history.keep(view, from);
    scene.hand_back_wishes(streamed, &device);
    return planes(device);
  }

  Planes planes(cusim::Device& device) {
    const size_t pixels = rasteriser.pixels().size();
    Planes out(pixels);
    Buffer<uint32_t> ids[5] = {Buffer<uint32_t>(pixels), Buffer<uint32_t>(pixels), Buffer<uint32_t>(pixels),
                               Buffer<uint32_t>(pixels), Buffer<uint32_t>(pixels)};
    Buffer<float> normal(3 * pixels), uv(2 * pixels), color(4 * pixels), velocity(2 * pixels),
        albedo(4 * pixels);
    ResolveTargets t;
    t.instance = ids[0].data(), t.cluster = ids[1].data(), t.triangle = ids[2].data();
    t.level = ids[3].data(), t.material = ids[4].data();
    t.normal = normal.data(), t.uv = uv.data(), t.color = color.data(), t.velocity = velocity.data();
    resolver.resolve(scene, culler, rasteriser, t, &device);
    resolver.resolve_albedo(scene, culler, rasteriser, albedo.data(), &device);
    device.wait();
    for (int i = 0; i < 5; ++i) out.ids[i] = ids[i].host();
    out.normal = normal.host(), out.uv = uv.host(), out.color = color.host();
    out.velocity = velocity.host(), out.albedo = albedo.host();
    return out;
  }
};

void require_equal(const Planes& got, const Planes& want) {
  for (int i = 0; i < 5; ++i) CUSIM_REQUIRE(got.ids[i] == want.ids[i]);
  CUSIM_REQUIRE(got.normal == want.normal);
  CUSIM_REQUIRE(got.uv == want.uv);
  CUSIM_REQUIRE(got.color == want.color);
  CUSIM_REQUIRE(got.velocity == want.velocity);
  CUSIM_REQUIRE(got.albedo == want.albedo);
}

bool has_other_than(const std::vector<float>& plane, float value) {
  return std::any_of(plane.begin(), plane.end(), [=](float x) { return x != value; });
}

}  // namespace

CUSIM_CASE(attributes_and_colours_are_those_of_the_host) {
  scenes::Random random(device.config.seed);
  Scene scene;
  fill(scene, 8, random);
  Device on_device;
  Host host;
  for (const double distance : {6.0, 0.4, -3.0}) {  // the second crosses the near plane
    const View view = look(random, distance, 61, 43);
    const Planes want = host.draw(scene, view);
    require_equal(on_device.draw(device, scene, view, false), want);
    CUSIM_REQUIRE(has_other_than(want.normal, 0) && has_other_than(want.uv, 0));
    const auto seen = [&](size_t i) { return host.buffer.depth[i] > 0; };
    size_t textured = 0, nothing = 0, two_thirds = 0;
    for (size_t i = 0; i < host.buffer.depth.size(); ++i) {
      nothing += !seen(i), two_thirds += seen(i) && want.ids[4][i] == 2;
      textured += seen(i) && want.albedo[4 * i] != want.color[4 * i];
    }
    CUSIM_REQUIRE(distance != 6.0 || (textured > 0 && nothing > 0 && two_thirds > 0));
  }
}

// Every drawn pixel once, bin by bin, as many bins as the CPU has; ids that share a bin and those that do
// not.
CUSIM_CASE(pixels_are_listed_by_their_material) {
  scenes::Random random(device.config.seed);
  Scene scene;
  for (int i = 0; i < 14; ++i) {  // more materials than a warp has lanes
    const double place[12] = {0.3, 0, 0, 0.5 * (i % 4) - 0.8, 0, 0.3, 0, 0.5 * (i / 4) - 0.8, 0, 0, 0.3, 0};
    scene.add(scene.add_asset(painted_patch(*scenes::patch(2, 1, 3))), place, 1, 1);
  }
  Device on_device;
  Host host;
  const View view = look(random, 3, 61, 43);
  const Planes want = host.draw(scene, view);
  require_equal(on_device.draw(device, scene, view, false), want);
  const gpu::ResolvePass pass =
      gpu::pass_of(on_device.scene, on_device.culler, on_device.rasteriser, nullptr);
  CUSIM_REQUIRE(on_device.scene.bins() == 1 + 14 * 3);
  gpu::PixelBins bins;
  bins.find(pass, on_device.scene.bins(), &device);
  uint32_t listed = 0;
  dev::read_back(&listed, bins.listed(), sizeof(listed), &device);
  std::vector<uint32_t> list(listed);
  dev::read_back(list.data(), bins.list(), listed * sizeof(uint32_t), &device);
  std::vector<int> bin_of(want.ids[0].size(), 0), met(scene.assets.size() * 3 + 1, 0);
  int last = -1;
  for (const uint32_t i : list) {
    const uint32_t asset = scene.lanes.asset[want.ids[0][i]];
    const int bin = static_cast<int>(1 + 3 * asset + want.ids[4][i]);
    CUSIM_REQUIRE(want.ids[0][i] != none && bin_of[i] == 0 && bin >= last);
    met[bin] = 1, bin_of[i] = last = bin;
  }
  const auto drawn = std::count_if(host.buffer.depth.begin(), host.buffer.depth.end(),
                                   [](float depth) { return depth > 0; });
  CUSIM_REQUIRE(drawn == static_cast<std::ptrdiff_t>(listed));
  CUSIM_REQUIRE(last > 32 && std::count(met.begin(), met.end(), 1) > 16);
}

// Some move, some come, some go; the camera moves, is cut, and looks at another scene.
void velocities(cusim::Device& device, bool occlusion) {
  scenes::Random random(device.config.seed);
  Scene scene, other;
  fill(scene, 8, random), fill(other, 2, random);
  Device on_device;
  Host host;
  host.history.occlusion = occlusion;
  const auto move = [&](int64_t i) {
    double place[12];
    scene.transform(i, place);
    place[3] += 0.2, place[7] -= 0.1;
    scene.update(i, place, 1, 1);
  };
  for (int frame = 0; frame < 7; ++frame) {
    if (frame == 2) move(1), move(1), move(5);
    if (frame == 3) move(7), scene.remove(2, 3);  // numbers move down
    if (frame == 4) scenes::fill(scene, 3, 1, random), move(0);
    if (frame == 5) host.history.forget(), on_device.history.forget(), on_device.occluders.forget();
    const Scene& drawn = frame == 6 ? other : scene;
    const View view = look(random, 6 - 0.2 * frame, 53, 37);
    const Planes want = host.draw(drawn, view);
    require_equal(on_device.draw(device, drawn, view, occlusion), want);
    CUSIM_REQUIRE(has_other_than(want.velocity, 0) == (frame > 0 && frame < 5));
  }
}

CUSIM_CASE(velocities_are_those_of_the_host) { velocities(device, false); }
CUSIM_CASE(velocities_with_occlusion_are_too) { velocities(device, true); }

// A real mesh in pages of a few clusters, streamed; `bytes` are its file, and stay.
std::shared_ptr<const Asset> streamed_torus(std::vector<uint8_t>& bytes) {
  const std::string here = __FILE__, name = "/data/torus.ncl";
  std::string path = here.substr(0, here.rfind("/sim/")) + name;
  if (!std::ifstream(path)) path = "packages/nanite-cull/tests" + name;  // built on another machine
  bytes = encode_ncl(read_ncl(NclBytes::of_file(path), {true, 1}), 1, 4096);
  return streamed_asset(
      std::make_shared<const NclFile>(NclBytes(bytes.data(), bytes.size()), ReadOptions{true, 1}));
}

// What the frame that just ended wished for; then forgotten.
std::vector<uint32_t> take_wishes(const Streamer& streamer, const Asset& asset) {
  const Streamer::Hold held(&streamer);
  Requests& requests = held.find(asset)->requests();
  std::vector<uint32_t> out;
  for (auto& word : requests.words) {
    const uint32_t wish = word.exchange(0);
    out.push_back(request_frame(wish) == requests.frame ? wish : 0);
  }
  return out;
}

// Pages come and go by chance: whatever is there, host and device draw the same and wish for the same.
void pages_come_and_go(cusim::Device& device, bool occlusion, Traversal traversal) {
  scenes::Random random(device.config.seed);
  std::vector<uint8_t> bytes;
  const std::shared_ptr<const Asset> asset = streamed_torus(bytes);
  Scene scene;
  scenes::fill(scene, 3, 1, random);  // beside what is in memory
  const uint32_t torus = scene.add_asset(asset);
  for (const double x : {-0.7, 0.8}) {
    const double place[12] = {1, 0, 0, x, 0, 1, 0, 0.2, 0, 0, 1, 0.5 * x};
    scene.add(torus, place, 1, 1);
  }
  Streamer streamer({uint64_t(1) << 30, 128, 1, true});
  Device on_device;
  on_device.scene.staging_bytes = 512;  // less than a page: chunks are used again and again
  Host host;
  host.history.occlusion = occlusion;
  const size_t pages = asset->file->tables().pages.size();
  CUSIM_REQUIRE(pages >= 6);
  std::vector<uint8_t> there(pages);
  size_t wished = 0, pictures = 0;
  Planes before(0);
  for (int frame = 0; frame < 6; ++frame) {
    streamer.begin_frame(scene.assets);
    for (uint8_t& page : there) page = frame == 0 ? 0 : frame == 5 ? 1 : random(0, 1) < 0.6;
    streamer.set_pages(asset, there.data());
    take_wishes(streamer, *asset);
    const View view = look(random, 2.2, 47, 33);
    const Planes want = host.draw(scene, view, &streamer);
    const std::vector<uint32_t> wishes = take_wishes(streamer, *asset);
    require_equal(on_device.draw(device, scene, view, occlusion, traversal, &streamer), want);
    CUSIM_REQUIRE(take_wishes(streamer, *asset) == wishes);
    for (const uint32_t word : wishes) wished += word > 0;
    pictures += want.ids[2] != before.ids[2];
    before = want;
  }
  CUSIM_REQUIRE(wished > 0 && pictures == 6);
  // a view that stands still, of pages that do: nothing is copied
  const View view = look(random, 2.2, 47, 33);
  for (int frame = 0; frame < 2; ++frame)
    on_device.draw(device, scene, view, occlusion, traversal, &streamer);
  CUSIM_REQUIRE(!on_device.scene.changed_by_last_update());
}

CUSIM_CASE(streamed_pages_draw_and_wish_as_on_the_host) {
  pages_come_and_go(device, false, Traversal::levels);
}
CUSIM_CASE(streamed_pages_in_two_persistent_passes_do_too) {
  pages_come_and_go(device, true, Traversal::persistent);
}

CUSIM_CASE(an_asset_of_no_streamer_is_refused) {
  std::vector<uint8_t> bytes;
  Scene scene;
  const double place[12] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0};
  scene.add(scene.add_asset(streamed_torus(bytes)), place, 1, 1);
  Device on_device;
  scenes::Random random(1);
  bool refused = false;
  try {
    on_device.draw(device, scene, look(random, 3, 7, 5), false);
  } catch (const native::ValueError&) {
    refused = true;
  }
  CUSIM_REQUIRE(refused);
}

CUSIM_CASE(an_empty_view_resolves_to_nothing) {
  Scene scene;
  Host host;
  Device on_device;
  scenes::Random random(1);
  const View view = look(random, 3, 7, 1);
  const Planes got = on_device.draw(device, scene, view, false);
  require_equal(got, host.draw(scene, view));
  CUSIM_REQUIRE(got.ids[0] == std::vector<uint32_t>(7, none) && !has_other_than(got.albedo, 0));
}

CUSIM_MAIN
