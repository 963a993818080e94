// One frame: culled, drawn, and what its pixels are asked for.
#include <algorithm>
#include <shared_mutex>

#include "bindings/arrays.h"
#include "bindings/stages.h"
#include "native/check.h"
#include "raster/two_pass.h"
#include "resolve/albedo.h"
#include "resolve/cut_mesh.h"
#include "resolve/light.h"
#include "resolve/resolve.h"
#include "resolve/shade.h"
#include "resolve/unproject.h"

#ifdef WITH_CUDA
#include "resolve/device_frame.h"
#endif

using namespace nanite_cull;

namespace {

// What one frame leaves behind; reused by the next.
struct Frame {
  CullContext context;
  VisibleClusters visible;
  Draws draws;
  VisibilityBuffer buffer;
  Motion motion;
  CullStats cull_stats;
  RasterStats raster_stats;
  uint64_t picture = 0;  // of a device: see DeviceFrame::draw
};

nb::dict cull_stats(const CullStats& s) {
  nb::dict d;
  d["instances"] = s.instances, d["tested_instances"] = s.tested_instances;
  d["visible_instances"] = s.visible_instances, d["far_instances"] = s.far_instances, d["nodes"] = s.nodes;
  d["candidate_clusters"] = s.candidate_clusters, d["visible_small"] = s.visible_small,
  d["visible_large"] = s.visible_large;
  d["occluded_instances"] = s.occluded_instances, d["occluded_nodes"] = s.occluded_nodes;
  d["occluded_clusters"] = s.occluded_clusters, d["post_clusters"] = s.post_clusters;
  d["triangles"] = s.triangles, d["dropped_candidate_nodes"] = s.dropped_nodes;
  d["dropped_candidate_clusters"] = s.dropped_candidate_clusters,
  d["dropped_visible_clusters"] = s.dropped_visible_clusters;
  return d;
}

nb::dict raster_stats(const RasterStats& s) {
  nb::dict d;
  d["clusters"] = s.clusters, d["drawn_triangles"] = s.drawn_triangles;
  d["clipped_triangles"] = s.clipped_triangles;
  return d;
}

// A plane or more of an image that the core writes to, of `channels` numbers a pixel (0: one, without an
// axis); null where it is not there.
template <class T>
T* plane_of(const char* name, const std::optional<nb::ndarray<T, nb::c_contig, nb::device::cpu>>& array,
            const VisibilityBuffer& image, size_t channels) {
  if (!array) return nullptr;
  std::vector<size_t> extents = {size_t(image.height), size_t(image.width)};
  if (channels > 0) extents.push_back(channels);
  check_extents(name, *array, extents);
  return array->data();
}

using Ids = std::optional<nb::ndarray<uint32_t, nb::c_contig, nb::device::cpu>>;
using Values = std::optional<nb::ndarray<float, nb::c_contig, nb::device::cpu>>;

// `ids`: instance, cluster, triangle, level, material; `values`: normal, uv, colour, velocity.
ResolveTargets targets_of(const VisibilityBuffer& image, const std::array<Ids, 5>& ids,
                          const std::array<Values, 4>& values) {
  ResolveTargets t;
  t.instance = plane_of("resolve: instance", ids[0], image, 0);
  t.cluster = plane_of("resolve: cluster", ids[1], image, 0);
  t.triangle = plane_of("resolve: triangle", ids[2], image, 0);
  t.level = plane_of("resolve: level", ids[3], image, 0);
  t.material = plane_of("resolve: material", ids[4], image, 0);
  t.normal = plane_of("resolve: normal", values[0], image, 3);
  t.uv = plane_of("resolve: uv", values[1], image, 2);
  t.color = plane_of("resolve: color", values[2], image, 4);
  t.velocity = plane_of("resolve: velocity", values[3], image, 2);
  return t;
}

using Depths = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

// Depths of views have room for exactly these, which are of one size.
void check_depths(const std::vector<View>& views, const Depths& out) {
  native::demand(!views.empty(), [] { return std::string("draw_views: views must not be empty"); });
  const View& first = views.front();
  for (const View& view : views)
    native::demand(view.width == first.width && view.height == first.height, [&] {
      return "draw_views: views must be of one size, got " + std::to_string(first.width) + " x " +
             std::to_string(first.height) + " and " + std::to_string(view.width) + " x " +
             std::to_string(view.height);
    });
  check_extents("draw_views: out", out, {views.size(), size_t(first.height), size_t(first.width)});
}

// A camera's, with its rays.
struct CameraLens {
  Unprojection exact;
  Lens lens;
  std::vector<float> x, y;
};

// Throws unless it has the rays of this image.
void check_lens(const VisibilityBuffer& image, const CameraLens& lens) {
  native::demand(lens.x.size() == size_t(image.width) && lens.y.size() == size_t(image.height), [&] {
    return "lens: ray_y and ray_x must have shape (" + std::to_string(image.height) + ", " +
           std::to_string(image.width) + "), got (" + std::to_string(lens.y.size()) + ", " +
           std::to_string(lens.x.size()) + ")";
  });
}

using Maps = Array<float, nb::shape<-1, -1, -1>>;

// `depth`: (maps, size, size).
Lights lights_of(const std::vector<Light>& lights, const std::vector<View>& maps, const Maps& depth) {
  check_extents("find_light: depth", depth, {maps.size(), depth.shape(1), depth.shape(1)});
  return {lights, maps, depth.data(), static_cast<int>(depth.shape(1))};
}

LightTargets light_targets_of(const VisibilityBuffer& image, size_t lights, const Values& share,
                              const Values& direct) {
  if (share) check_extents("find_light: share", *share, {lights, size_t(image.height), size_t(image.width)});
  return {share ? share->data() : nullptr, plane_of("find_light: direct", direct, image, 0)};
}

using Ramp = Array<float, nb::shape<-1, 3>>;
using Bytes = std::optional<nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu>>;

Shading shading_of(const VisibilityBuffer& image, Base base, const Array<float, nb::shape<3>>& light,
                   float relief, const Ramp& ramp, uint32_t top_level, const Ramp& background) {
  Shading out;
  out.base = base, out.relief = relief, out.top_level = top_level;
  std::copy_n(light.data(), 3, out.light);
  native::demand(ramp.shape(0) >= 2, [] { return std::string("shade: ramp must have two rows or more"); });
  check_extents("shade: background", background, {size_t(image.height), 3});
  out.ramp = ramp.data(), out.ramp_size = static_cast<int>(ramp.shape(0));
  out.background = background.data();
  return out;
}

}  // namespace

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

#ifdef WITH_CUDA
  nb::enum_<cuda::Plane>(m, "Plane")
      .value("depth", cuda::Plane::depth)
      .value("instance", cuda::Plane::instance)
      .value("cluster", cuda::Plane::cluster)
      .value("triangle", cuda::Plane::triangle)
      .value("level", cuda::Plane::level)
      .value("material", cuda::Plane::material)
      .value("normal", cuda::Plane::normal)
      .value("uv", cuda::Plane::uv)
      .value("color", cuda::Plane::color)
      .value("velocity", cuda::Plane::velocity)
      .value("albedo", cuda::Plane::albedo);
  // Frame.cull, or cull and raster or draw_two_pass, on a device that keeps scene and history.
  nb::class_<cuda::DeviceFrame>(m, "DeviceFrame")
      .def(nb::init<>())
      .def("forget", &cuda::DeviceFrame::forget)
      .def("cull",
           [](cuda::DeviceFrame& device, Frame& f, const Scene& scene, const View& view,
              const CullOptions& options, const Streamer& streamer) {
             {
               nb::gil_scoped_release released;
               f.context.init_context(view, options);
               const std::shared_lock held(scene.lock);
               device.cull(scene, Streamer::Hold(&streamer), view, options, f.visible, f.cull_stats);
             }
             return cull_stats(f.cull_stats);
           })
      .def(
          "draw",
          [](cuda::DeviceFrame& device, Frame& f, const Scene& scene, const View& view,
             const CullOptions& culling, const RasterOptions& options, bool occlusion, History* history,
             const Streamer& streamer, const View* culled) {
            {
              nb::gil_scoped_release released;
              f.context.init_context(culled ? *culled : view, culling, &view);
              const std::shared_lock held(scene.lock);
              const Streamer::Hold streamed(&streamer);
              f.picture = device.draw(scene, streamed, view, culling, options, occlusion, history, f.visible,
                                      f.cull_stats, f.buffer, f.raster_stats, culled);
              f.context.find_assets(scene, streamed);
              f.context.collect_draws(scene, f.visible, f.draws);
              f.motion.to_clip.clear();
              if (history && history->before.epoch > 0)
                find_motion(scene, f.draws, history->before.view, *history->track, history->before.epoch,
                            culling.threads, f.motion);
            }
            nb::dict d = cull_stats(f.cull_stats);
            d.update(raster_stats(f.raster_stats));
            return d;
          },
          "frame"_a, "scene"_a, "view"_a, "culling"_a, "options"_a, "occlusion"_a, "history"_a.none(),
          "streamer"_a, "culled"_a.none() = nb::none())
      // Frame.resolve and Frame.resolve_albedo of the picture that the device holds; False: of another one
      .def(
          "resolve",
          [](cuda::DeviceFrame& device, const Frame& f, Ids instance, Ids cluster, Ids triangle, Ids level,
             Ids material, Values normal, Values uv, Values color, Values velocity) {
            const ResolveTargets targets = targets_of(
                f.buffer, {instance, cluster, triangle, level, material}, {normal, uv, color, velocity});
            nb::gil_scoped_release released;
            return device.resolve(f.picture, targets);
          },
          "frame"_a, "instance"_a.none(), "cluster"_a.none(), "triangle"_a.none(), "level"_a.none(),
          "material"_a.none(), "normal"_a.none(), "uv"_a.none(), "color"_a.none(), "velocity"_a.none())
      .def(
          "resolve_albedo",
          [](cuda::DeviceFrame& device, const Frame& f, Values out) {
            float* const albedo = plane_of("resolve_albedo: out", out, f.buffer, 4);
            nb::gil_scoped_release released;
            return device.resolve_albedo(f.picture, albedo);
          },
          "frame"_a, "out"_a.noconvert())
      // A plane in device memory, by DLPack; None: of another picture
      .def(
          "plane",
          [](cuda::DeviceFrame& device, const Frame& f, cuda::Plane which) -> nb::object {
            cuda::DevicePlane plane;
            {
              nb::gil_scoped_release released;
              plane = device.plane(f.picture, which);
            }
            if (!plane.memory) return nb::none();
            auto* const memory = new std::shared_ptr<void>(plane.memory);
            const nb::capsule owner(memory,
                                    [](void* p) noexcept { delete static_cast<std::shared_ptr<void>*>(p); });
            const size_t width = size_t(cuda::plane_width(which));
            const size_t shape[3] = {size_t(f.buffer.height), size_t(f.buffer.width), width};
            const auto dtype = cuda::plane_of_ids(which) ? nb::dtype<uint32_t>() : nb::dtype<float>();
            return nb::cast(nb::ndarray<>(memory->get(), width > 1 ? 3 : 2, shape, owner, nullptr, dtype,
                                          nb::device::cuda::value, plane.device));
          },
          "frame"_a, "which"_a)
      // Frame.find_light and Frame.shade, likewise; `lights`: as there, or None
      .def(
          "find_light",
          [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens,
             const std::vector<Light>& lights, const std::vector<View>& maps, Maps depth, Values share,
             Values direct) {
            check_lens(f.buffer, lens);
            const Lights all = lights_of(lights, maps, depth);
            const LightTargets targets = light_targets_of(f.buffer, lights.size(), share, direct);
            nb::gil_scoped_release released;
            return device.find_light(f.picture, lens.lens, lens.exact.eye, all, targets);
          },
          "frame"_a, "lens"_a, "lights"_a, "maps"_a, "depth"_a.noconvert(), "share"_a.none(),
          "direct"_a.none())
      .def(
          "shade",
          [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens, Base base,
             Array<float, nb::shape<3>> light, float relief, Ramp ramp, uint32_t top_level, Ramp background,
             const std::optional<std::vector<Light>>& lights, const std::vector<View>& maps,
             const std::optional<Maps>& depth, Bytes out) {
            check_lens(f.buffer, lens);
            const Shading shading = shading_of(f.buffer, base, light, relief, ramp, top_level, background);
            uint8_t* const picture = plane_of("shade: out", out, f.buffer, 3);
            std::optional<Lights> all;
            if (lights && depth) all = lights_of(*lights, maps, *depth);
            nb::gil_scoped_release released;
            return device.shade(f.picture, lens.lens, lens.exact.eye, all ? &*all : nullptr, shading,
                                picture);
          },
          "frame"_a, "lens"_a, "base"_a, "light"_a.noconvert(), "relief"_a, "ramp"_a.noconvert(),
          "top_level"_a, "background"_a.noconvert(), "lights"_a.none(), "maps"_a, "depth"_a.none(),
          "out"_a.noconvert())
      // Frame.draw_views without histories
      .def(
          "draw_views",
          [](cuda::DeviceFrame& device, Frame& f, const Scene& scene, const std::vector<View>& views,
             const CullOptions& culling, const RasterOptions& options, Depths out, const Streamer& streamer) {
            check_depths(views, out);
            {
              nb::gil_scoped_release released;
              f.context.init_context(views, culling);
              const std::shared_lock held(scene.lock);
              device.draw_views(scene, Streamer::Hold(&streamer), views, culling, options, out.data(),
                                f.cull_stats, f.raster_stats);
            }
            nb::dict d = cull_stats(f.cull_stats);
            d.update(raster_stats(f.raster_stats));
            return d;
          },
          "frame"_a, "scene"_a, "views"_a, "culling"_a, "options"_a, "out"_a.noconvert(), "streamer"_a);
#endif

  m.def("object_to_clip", [](const View& view, const Scene& scene, uint32_t instance) {
    const std::shared_lock held(scene.lock);
    native::demand(instance < scene.size(), [] { return std::string("object_to_clip: no such instance"); });
    const Draw draw = make_draw(view, scene, instance);
    auto* values = new float[16];
    std::copy(draw.to_clip, draw.to_clip + 16, values);
    return owned(values, {4, 4});
  });
}
