// Assets that are drawn from a file's pages, and the streamer of a renderer.
#include "bindings/stages.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "native/check.h"
#include "scene/scene.h"
#include "store/ncl_file.h"
#include "store/streamer.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace nanite_cull;

namespace {

std::shared_ptr<Asset> open_asset(const std::string& path) {
  return streamed_asset(std::make_shared<const NclFile>(NclBytes::of_file(path), ReadOptions{}));
}

std::vector<std::shared_ptr<const Asset>> assets_of(const Scene& scene) {
  const std::shared_lock held(scene.lock);
  return scene.assets;
}

nb::dict stream_stats(const StreamStats& s) {
  nb::dict d;
  d["resident_pages"] = s.pages, d["resident_bytes"] = s.bytes;
  d["wanted_pages"] = s.wanted_pages, d["wanted_bytes"] = s.wanted_bytes;
  d["missing_pages"] = s.missing_pages;
  d["installed_pages"] = s.installed, d["evicted_pages"] = s.evicted;
  return d;
}

// Of a streamed asset: which pages are there, which stay, which groups can be drawn; a byte for each.
nb::dict residency(const Streamer& streamer, const std::shared_ptr<Asset>& asset) {
  const Streamer::Hold held(&streamer);
  const Residency* found = held.find(*asset);
  native::demand(found != nullptr, [] { return std::string("residency: the asset was not drawn yet"); });
  auto bytes = [](size_t count, auto&& of) {
    std::string out(count, '\0');
    for (uint32_t i = 0; i < count; ++i) out[i] = of(i);
    return nb::bytes(out.data(), out.size());
  };
  nb::dict d;
  d["pages"] = bytes(found->pages().size(), [&](uint32_t p) { return found->pages()[p] != nullptr; });
  d["pinned"] = bytes(found->pages().size(), [&](uint32_t p) { return found->pinned(p); });
  d["groups"] = bytes(asset->groups.size(), [&](uint32_t g) { return found->there(g); });
  return d;
}

}  // namespace

void nanite_cull::bind_streaming(nb::module_& m) {
  m.def("open_asset", &open_asset, "path"_a, nb::call_guard<nb::gil_scoped_release>());
  nb::class_<Streamer>(m, "Streamer")
      .def(
          "__init__",
          [](Streamer* self, uint64_t budget, uint32_t max_installs, int threads, bool wait) {
            new (self) Streamer(StreamOptions{budget, max_installs, threads, wait});
          },
          "budget"_a, "max_installs"_a, "threads"_a, "wait"_a)
      .def(
          "begin_frame", [](Streamer& s, const Scene& scene) { s.begin_frame(assets_of(scene)); }, "scene"_a,
          nb::call_guard<nb::gil_scoped_release>())
      .def(
          "begin_view", [](Streamer& s, const Scene& scene) { s.begin_view(assets_of(scene)); }, "scene"_a,
          nb::call_guard<nb::gil_scoped_release>())
      .def("load_wanted", &Streamer::load_wanted, nb::call_guard<nb::gil_scoped_release>())
      .def("stats", [](const Streamer& s) { return stream_stats(s.stats()); })
      .def_prop_ro("threshold_scale", [](const Streamer& s) { return s.stats().threshold_scale; })
      .def("residency", &residency, "asset"_a)
      .def(
          "set_pages",
          [](Streamer& s, const std::shared_ptr<Asset>& asset, nb::bytes pages) {
            native::demand(pages.size() == asset->file->tables().pages.size(),
                           [] { return std::string("set_pages: give a byte for each page"); });
            s.set_pages(asset, reinterpret_cast<const uint8_t*>(pages.data()));
          },
          "asset"_a, "pages"_a);
}
