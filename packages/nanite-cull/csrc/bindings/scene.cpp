// Views, options and scenes.
#include <algorithm>
#include <utility>

#include <nanobind/stl/pair.h>

#include "bindings/arrays.h"
#include "bindings/stages.h"
#include "native/check.h"
#include "raster/two_pass.h"

using namespace nanite_cull;

void nanite_cull::bind_scene(nb::module_& m) {
  nb::class_<View>(m, "View")
      .def(nb::init<>())
      .def_rw("near", &View::near_distance)
      .def_rw("pixels_per_unit", &View::pixels_per_unit)
      .def_rw("threshold", &View::threshold)
      .def_rw("orthographic", &View::orthographic)
      .def_rw("width", &View::width)
      .def_rw("height", &View::height)
      .def(
          "set",
          [](View& v, Array<double, nb::shape<4, 4>> relative_to_clip, Array<double, nb::shape<3>> eye) {
            std::copy(relative_to_clip.data(), relative_to_clip.data() + 16, v.relative_to_clip);
            std::copy(eye.data(), eye.data() + 3, v.eye);
          },
          "relative_to_clip"_a.noconvert(), "eye"_a.noconvert());

  nb::enum_<Traversal>(m, "Traversal")
      .value("instances", Traversal::instances)
      .value("levels", Traversal::levels)
      .value("persistent", Traversal::persistent);
  nb::class_<CullOptions>(m, "CullOptions")
      .def(nb::init<>())
      .def_rw("traversal", &CullOptions::traversal)
      .def_rw("max_candidate_nodes", &CullOptions::max_candidate_nodes)
      .def_rw("max_candidate_clusters", &CullOptions::max_candidate_clusters)
      .def_rw("max_visible_clusters", &CullOptions::max_visible_clusters)
      .def_rw("frustum", &CullOptions::frustum)
      .def_rw("hierarchy", &CullOptions::hierarchy)
      .def_rw("threads", &CullOptions::threads);
  nb::class_<RasterOptions>(m, "RasterOptions")
      .def(nb::init<>())
      .def_rw("cull_back", &RasterOptions::cull_back)
      .def_rw("overdraw", &RasterOptions::overdraw)
      .def_rw("large_path_only", &RasterOptions::large_path_only)
      .def_rw("threads", &RasterOptions::threads);

  nb::class_<Scene>(m, "Scene")
      .def(nb::init<>())
      .def("__len__", &Scene::size)
      .def(
          "add_asset", [](Scene& s, std::shared_ptr<Asset> asset) { return s.add_asset(std::move(asset)); },
          "asset"_a)
      .def(
          "add_with_asset",
          [](Scene& s, std::shared_ptr<Asset> asset, Array<double, nb::shape<-1, 12>> t, int threads) {
            return s.add_with_asset(std::move(asset), t.data(), t.shape(0), threads);
          },
          "asset"_a, "transforms"_a.noconvert(), "threads"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "add",
          [](Scene& s, uint32_t asset, Array<double, nb::shape<-1, 12>> t, int threads) {
            return s.add(asset, t.data(), t.shape(0), threads);
          },
          "asset"_a, "transforms"_a.noconvert(), "threads"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "update",
          [](Scene& s, int64_t first, Array<double, nb::shape<-1, 12>> t, int threads) {
            s.update(first, t.data(), t.shape(0), threads);
          },
          "first"_a, "transforms"_a.noconvert(), "threads"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("hide", &Scene::hide, "first"_a, "count"_a, "hidden"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("remove", &Scene::remove, "first"_a, "count"_a, nb::call_guard<nb::gil_scoped_release>())
      // lowest and highest corner of all that is not hidden
      .def("box",
           [](const Scene& s) {
             const std::shared_lock held(s.lock);
             const Box b = s.box();
             return nb::make_tuple(nb::make_tuple(b.lo[0], b.lo[1], b.lo[2]),
                                   nb::make_tuple(b.hi[0], b.hi[1], b.hi[2]));
           })
      // transforms (n, 12), numbers of the assets (n), hidden (n): a copy of all instances
      .def("instances", [](const Scene& s) {
        const std::shared_lock held(s.lock);
        const size_t n = s.size();
        auto* transforms = new double[12 * n];
        auto* assets = new uint32_t[n];
        auto* hidden = new uint8_t[n];
        for (size_t i = 0; i < n; ++i) {
          s.transform(i, transforms + 12 * i);
          assets[i] = s.lanes.asset[i], hidden[i] = s.hidden(i);
        }
        return nb::make_tuple(owned(transforms, {n, 12}), owned(assets, {n}), owned(hidden, {n}));
      });
}
