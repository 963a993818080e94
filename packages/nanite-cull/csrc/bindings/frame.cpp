// One frame: culled, drawn, and what its pixels are asked for.
#include "bindings/frame.h"

#include <shared_mutex>

#include "bindings/stages.h"
#include "resolve/albedo.h"
#include "resolve/cut_mesh.h"
#include "resolve/resolve.h"

using namespace nanite_cull;

void nanite_cull::bind_shading(nb::module_& m) {
  nb::enum_<Base>(m, "Base")
      .value("plain", Base::plain)
      .value("color", Base::color)
      .value("cluster", Base::cluster)
      .value("triangle", Base::triangle)
      .value("instance", Base::instance)
      .value("level", Base::level);
  nb::class_<CameraLens>(m, "Lens").def(
      "__init__",
      // `linear`: world to camera, (3, 3), with its scale; `eye`: world
      [](CameraLens* self, Array<double, nb::shape<3, 3>> linear, Array<double, nb::shape<3, 3>> to_world,
         Array<double, nb::shape<3>> eye, Array<double, nb::shape<-1>> x, Array<double, nb::shape<-1>> y,
         bool orthographic, double near, double far, double scale, double pixel) {
        auto& out = *new (self) CameraLens;
        Unprojection& exact = out.exact;
        Lens& lens = out.lens;
        exact.ray_x.assign(x.data(), x.data() + x.shape(0));
        exact.ray_y.assign(y.data(), y.data() + y.shape(0));
        std::copy_n(to_world.data(), 9, exact.to_world), std::copy_n(eye.data(), 3, exact.eye);
        exact.orthographic = orthographic, exact.near_distance = near, exact.far_distance = far;
        out.x.assign(exact.ray_x.begin(), exact.ray_x.end());
        out.y.assign(exact.ray_y.begin(), exact.ray_y.end());
        lens.ray_x = out.x.data(), lens.ray_y = out.y.data();
        for (int i = 0; i < 9; ++i) {
          lens.rotation[i] = float(linear.data()[i] / scale);
          lens.to_world[i] = float(to_world.data()[i]);
        }
        lens.orthographic = orthographic, lens.near_distance = float(near);
        lens.far_distance = float(far), lens.extent = float(far - near);
        lens.scale = float(scale), lens.pixel = float(pixel);
      },
      "linear"_a.noconvert(), "to_world"_a.noconvert(), "eye"_a.noconvert(), "ray_x"_a.noconvert(),
      "ray_y"_a.noconvert(), "orthographic"_a, "near"_a, "far"_a, "scale"_a, "pixel"_a);

  nb::class_<Light>(m, "Light")
      .def(
          "__init__",
          [](Light* self, bool sun, std::array<double, 3> at, float strength, float bias, uint32_t first_map,
             uint32_t maps, float fade, float range) {
            new (self) Light{sun, {at[0], at[1], at[2]}, strength, fade, range, bias, first_map, maps};
          },
          "sun"_a, "at"_a, "strength"_a, "bias"_a, "first_map"_a, "maps"_a, "fade"_a = 0.0f,
          "range"_a = 0.0f);
}

void nanite_cull::bind_frame(nb::module_& m) {
  nb::class_<History>(m, "History")
      .def(
          "__init__",
          [](History* self, bool occlusion) {
            new (self) History;
            self->occlusion = occlusion;
          },
          "occlusion"_a = true)
      .def("begin_frame", &History::begin_frame)
      // a history made up of any depths (height, width) and of any view: for tests
      .def(
          "set",
          [](History& h, const Scene& scene, const View& view, Array<float, nb::shape<-1, -1>> depth) {
            const std::shared_lock held(scene.lock);
            h.enter(scene);
            h.pyramid.build(depth.data(), static_cast<int>(depth.shape(1)), static_cast<int>(depth.shape(0)),
                            0);
            h.keep(view, scene);
          },
          "scene"_a, "view"_a, "depth"_a.noconvert())
      // all levels one behind the other, sizes as core/hzb_layout.h has them
      .def_prop_ro("texels", [](nb::handle_t<History> s) {
        auto& h = nb::cast<History&>(s);
        return nb::ndarray<nb::numpy, float, nb::ndim<1>>(h.pyramid.texels.data(), {h.pyramid.texels.size()},
                                                          s);
      });

  nb::class_<Frame>(m, "Frame")
      .def(nb::init<>())
      .def("cull",
           [](Frame& f, const Scene& scene, const View& view, const CullOptions& options, bool draws,
              const Streamer& streamer, const View& drawn) {
             {
               nb::gil_scoped_release released;
               f.context.init_context(view, options, &drawn);
               f.context.cull(scene, f.visible, f.cull_stats, draws ? &f.draws : nullptr, &streamer);
               f.motion.to_clip.clear();
             }
             return cull_stats(f.cull_stats);
           })
      .def("raster",
           [](Frame& f, const View& view, const RasterOptions& options) {
             {
               nb::gil_scoped_release released;
               raster(f.draws, view, f.visible, options, f.buffer, f.raster_stats);
             }
             return raster_stats(f.raster_stats);
           })
      // depths (views, height, width) of views of one size, culled together
      .def(
          "draw_views",
          [](Frame& f, const Scene& scene, const std::vector<View>& views, const CullOptions& culling,
             const RasterOptions& options, const Streamer& streamer, Depths out,
             const std::vector<History*>& histories) {
            check_depths(views, out);
            {
              nb::gil_scoped_release released;
              f.context.init_context(views, culling);
              draw_views(f.context, scene, views, options, histories, f.visible, f.draws, f.buffer,
                         out.data(), f.cull_stats, f.raster_stats, &streamer);
            }
            nb::dict d = cull_stats(f.cull_stats);
            d.update(raster_stats(f.raster_stats));
            return d;
          },
          "scene"_a, "views"_a, "culling"_a, "options"_a, "streamer"_a, "out"_a.noconvert(),
          "histories"_a = std::vector<History*>())
      .def("draw_two_pass",
           [](Frame& f, const Scene& scene, const View& view, const CullOptions& culling,
              const RasterOptions& options, History& history, const Streamer& streamer) {
             {
               nb::gil_scoped_release released;
               f.context.init_context(view, culling);
               draw_two_pass(f.context, scene, view, options, history, f.visible, f.draws, f.buffer,
                             f.cull_stats, f.raster_stats, &streamer, &f.motion);
             }
             nb::dict d = cull_stats(f.cull_stats);
             d.update(raster_stats(f.raster_stats));
             return d;
           })
      .def(
          "resolve",
          [](const Frame& f, const View& view, Ids instance, Ids cluster, Ids triangle, Ids level,
             Ids material, Values normal, Values uv, Values color, Values velocity, int threads) {
            const ResolveTargets t = targets_of(f.buffer, {instance, cluster, triangle, level, material},
                                                {normal, uv, color, velocity});
            nb::gil_scoped_release released;
            resolve(f.draws, view, f.visible, f.buffer, f.motion, t, threads);
          },
          "view"_a, "instance"_a.none(), "cluster"_a.none(), "triangle"_a.none(), "level"_a.none(),
          "material"_a.none(), "normal"_a.none(), "uv"_a.none(), "color"_a.none(), "velocity"_a.none(),
          "threads"_a)
      .def(
          "resolve_albedo",
          [](const Frame& f, const View& view, Values out, int threads) {
            float* const albedo = plane_of("resolve_albedo: out", out, f.buffer, 4);
            nb::gil_scoped_release released;
            resolve_albedo(f.draws, view, f.visible, f.buffer, albedo, threads);
          },
          "view"_a, "out"_a.noconvert(), "threads"_a)
      .def(
          "unproject",
          [](const Frame& f, const CameraLens& lens, Values out, int threads) {
            check_lens(f.buffer, lens);
            float* const places = plane_of("unproject: out", out, f.buffer, 3);
            nb::gil_scoped_release released;
            unproject(f.buffer, lens.exact, places, threads);
          },
          "lens"_a, "out"_a.noconvert(), "threads"_a)
      // `depth`: (maps, size, size) of `maps`; `share` (lights, height, width) and `direct` (height, width)
      .def(
          "find_light",
          [](const Frame& f, const CameraLens& lens, const std::vector<Light>& lights,
             const std::vector<View>& maps, Maps depth, Values share, Values direct, int threads) {
            check_lens(f.buffer, lens);
            const Lights all = lights_of(lights, maps, depth);
            const LightTargets targets = light_targets_of(f.buffer, lights.size(), share, direct);
            nb::gil_scoped_release released;
            find_light(f.draws, f.visible, f.buffer, lens.lens, lens.exact.eye, all, targets, threads);
          },
          "lens"_a, "lights"_a, "maps"_a, "depth"_a.noconvert(), "share"_a.none(), "direct"_a.none(),
          "threads"_a)
      // `direct`: of find_light(), in place of the lamp's light; or None
      .def(
          "shade",
          [](Frame& f, const CameraLens& lens, Base base, Array<float, nb::shape<3>> light, float relief,
             Ramp ramp, uint32_t top_level, Ramp background, Values direct, Bytes out, int threads) {
            check_lens(f.buffer, lens);
            Shading shading = shading_of(f.buffer, base, light, relief, ramp, top_level, background);
            shading.direct = plane_of("shade: direct", direct, f.buffer, 0);
            uint8_t* const picture = plane_of("shade: out", out, f.buffer, 3);
            nb::gil_scoped_release released;
            shade(f.draws, f.visible, f.buffer, lens.lens, shading, picture, threads);
          },
          "lens"_a, "base"_a, "light"_a.noconvert(), "relief"_a, "ramp"_a.noconvert(), "top_level"_a,
          "background"_a.noconvert(), "direct"_a.none(), "out"_a.noconvert(), "threads"_a)
      // the triangles of the cut: vertices (n, 3), faces (m, 3), of each face the instance and the cluster
      .def(
          "cut_mesh",
          [](const Frame& f, int threads) {
            auto* mesh = new CutMesh;
            nb::capsule owner(mesh, [](void* p) noexcept { delete static_cast<CutMesh*>(p); });
            {
              nb::gil_scoped_release released;
              *mesh = cut_mesh(f.draws, f.visible, threads);
            }
            auto rows = [&](auto& values, std::initializer_list<size_t> shape) {
              return nb::ndarray<nb::numpy, std::decay_t<decltype(values[0])>>(values.data(), shape, owner);
            };
            const size_t faces = mesh->instance.size();
            return nb::make_tuple(rows(mesh->vertices, {mesh->vertices.size() / 3, 3}),
                                  rows(mesh->faces, {faces, 3}), rows(mesh->instance, {faces}),
                                  rows(mesh->cluster, {faces}));
          },
          "threads"_a)
      // the visible clusters as (n, 2): instance, cluster; small ones first
      .def("visible",
           [](const Frame& f) {
             const size_t n = f.visible.small + f.visible.large;
             auto* copy = new uint32_t[2 * n];
             for (size_t i = 0; i < n; ++i) {
               const Visible& v =
                   i < f.visible.small ? f.visible.buffer[i] : f.visible.large_at(i - f.visible.small);
               copy[2 * i] = v.instance, copy[2 * i + 1] = v.cluster;
             }
             return owned(copy, {n, 2});
           })
      .def_prop_ro("small", [](const Frame& f) { return f.visible.small; })
      .def_prop_ro("capacity", [](const Frame& f) { return f.visible.buffer.size(); })
      .def_prop_ro("depth",
                   [](nb::handle_t<Frame> s) {
                     auto& b = nb::cast<const Frame&>(s).buffer;
                     return view_of(b.depth, {size_t(b.height), size_t(b.width)}, s);
                   })
      .def_prop_ro("id",
                   [](nb::handle_t<Frame> s) {
                     auto& b = nb::cast<const Frame&>(s).buffer;
                     return view_of(b.id, {size_t(b.height), size_t(b.width)}, s);
                   })
      .def_prop_ro("overdraw",
                   [](nb::handle_t<Frame> s) {
                     auto& b = nb::cast<const Frame&>(s).buffer;
                     return view_of(b.overdraw, {b.overdraw.empty() ? 0 : size_t(b.height), size_t(b.width)},
                                    s);
                   })
      .def(
          "raster_triangles",
          [](Frame& f, Array<float, nb::shape<-1, 3>> positions, Array<uint32_t, nb::shape<-1, 3>> faces,
             Array<float, nb::shape<4, 4>> matrix, const RasterOptions& options, int width, int height) {
            nb::gil_scoped_release released;
            raster_triangles(positions.data(), positions.shape(0), faces.data(), faces.shape(0),
                             matrix.data(), options, width, height, f.buffer);
          },
          "positions"_a.noconvert(), "faces"_a.noconvert(), "matrix"_a.noconvert(), "options"_a, "width"_a,
          "height"_a);

  m.def("object_to_clip", [](const View& view, const Scene& scene, uint32_t instance) {
    const std::shared_lock held(scene.lock);
    native::demand(instance < scene.size(), [] { return std::string("object_to_clip: no such instance"); });
    const Draw draw = make_draw(view, scene, instance);
    auto* values = new float[16];
    std::copy(draw.to_clip, draw.to_clip + 16, values);
    return owned(values, {4, 4});
  });
}
