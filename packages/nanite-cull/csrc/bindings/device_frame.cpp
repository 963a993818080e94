// A frame on a device: what bindings/frame.cpp has, by kernels, and what stays in the device's memory.
#ifdef WITH_CUDA

#include "resolve/device_frame.h"

#include <shared_mutex>

#include "bindings/frame.h"
#include "bindings/stages.h"

using namespace nanite_cull;

namespace {

// An array that shares and holds device memory, by DLPack; None where there is none.
nb::object array_of(const cuda::DeviceMemory& memory, std::vector<size_t> shape, nb::dlpack::dtype dtype) {
  if (!memory.memory) return nb::none();
  auto* const held = new std::shared_ptr<void>(memory.memory);
  const nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::shared_ptr<void>*>(p); });
  return nb::cast(nb::ndarray<nb::array_api>(held->get(), shape.size(), shape.data(), owner, nullptr, dtype,
                                             nb::device::cuda::value, memory.device));
}

std::vector<size_t> image_of(const Frame& f, size_t channels = 0) {
  std::vector<size_t> shape = {size_t(f.buffer.height), size_t(f.buffer.width)};
  if (channels > 0) shape.push_back(channels);
  return shape;
}

nb::object plane_array(const Frame& f, cuda::Plane which, const cuda::DeviceMemory& memory) {
  using cuda::Plane;
  switch (which) {
    case Plane::clusters:
      return array_of(memory, {size_t(f.visible.small + f.visible.large), 2}, nb::dtype<uint32_t>());
    case Plane::coverage: return array_of(memory, image_of(f), nb::dtype<bool>());
    case Plane::visibility: return array_of(memory, image_of(f), nb::dtype<uint64_t>());
    case Plane::depth: return array_of(memory, image_of(f), nb::dtype<float>());
    case Plane::normal: return array_of(memory, image_of(f, 3), nb::dtype<float>());
    case Plane::uv:
    case Plane::velocity: return array_of(memory, image_of(f, 2), nb::dtype<float>());
    case Plane::color:
    case Plane::albedo: return array_of(memory, image_of(f, 4), nb::dtype<float>());
    default: return array_of(memory, image_of(f), nb::dtype<uint32_t>());
  }
}

cuda::FrameLens lens_of(const CameraLens& lens) { return {lens.lens, lens.exact}; }

// Of maps on a device.
Lights lights_of(const std::vector<Light>& lights, const std::vector<View>& views,
                 const cuda::DeviceDepths& maps) {
  native::demand(maps.views == views.size(), [&] {
    return "find_light: there must be a map for each of " + std::to_string(views.size()) + " views, got " +
           std::to_string(maps.views);
  });
  return {lights, views, nullptr, maps.width};
}

using MaybeLights = std::optional<std::vector<Light>>;

// Calls body(lights or null).
template <class Body>
auto with_lights(const MaybeLights& lights, const std::vector<View>& views, const cuda::DeviceDepths* maps,
                 Body&& body) {
  std::optional<Lights> all;
  if (lights && maps) all = lights_of(*lights, views, *maps);
  nb::gil_scoped_release released;
  return body(all ? &*all : nullptr);
}

nb::dict all_stats(const Frame& f) {
  nb::dict d = cull_stats(f.cull_stats);
  d.update(raster_stats(f.raster_stats));
  return d;
}

void bind_memory(nb::module_& m) {
  nb::enum_<cuda::Plane>(m, "Plane")
      .value("depth", cuda::Plane::depth)
      .value("coverage", cuda::Plane::coverage)
      .value("visibility", cuda::Plane::visibility)
      .value("overdraw", cuda::Plane::overdraw)
      .value("instance", cuda::Plane::instance)
      .value("cluster", cuda::Plane::cluster)
      .value("triangle", cuda::Plane::triangle)
      .value("level", cuda::Plane::level)
      .value("material", cuda::Plane::material)
      .value("normal", cuda::Plane::normal)
      .value("uv", cuda::Plane::uv)
      .value("color", cuda::Plane::color)
      .value("velocity", cuda::Plane::velocity)
      .value("albedo", cuda::Plane::albedo)
      .value("visible_clusters", cuda::Plane::clusters);
  nb::enum_<cuda::ViewsOf>(m, "ViewsOf")
      .value("cameras", cuda::ViewsOf::cameras)
      .value("lights", cuda::ViewsOf::lights);
  // (views, height, width) depths in device memory
  nb::class_<cuda::DeviceDepths>(m, "DeviceDepths")
      .def(nb::init<>())
      .def("read_back",
           [](const cuda::DeviceDepths& depths) {
             auto* const copy = new float[depths.size()];
             const auto out = owned(copy, {depths.views, size_t(depths.height), size_t(depths.width)});
             nb::gil_scoped_release released;
             depths.read_back(copy);
             return out;
           })
      .def("array", [](const cuda::DeviceDepths& depths) {
        return array_of(depths, {depths.views, size_t(depths.height), size_t(depths.width)},
                        nb::dtype<float>());
      });
}

void bind_drawing(nb::class_<cuda::DeviceFrame>& c) {
  c.def("cull", [](cuda::DeviceFrame& device, Frame& f, const Scene& scene, const View& view,
                   const CullOptions& options, const Streamer& streamer) {
    {
      nb::gil_scoped_release released;
      f.context.init_context(view, options);
      const std::shared_lock held(scene.lock);
      device.cull(scene, Streamer::Hold(&streamer), view, options, f.visible, f.cull_stats);
    }
    return cull_stats(f.cull_stats);
  });
  // Frame.cull and Frame.raster, or Frame.draw_two_pass
  c.def(
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
        return all_stats(f);
      },
      "frame"_a, "scene"_a, "view"_a, "culling"_a, "options"_a, "occlusion"_a, "history"_a.none(),
      "streamer"_a, "culled"_a.none() = nb::none());
  // Frame.draw_views; returns numbers and depths, which stay on the device
  c.def(
      "draw_views",
      [](cuda::DeviceFrame& device, Frame& f, const Scene& scene, const std::vector<View>& views,
         const CullOptions& culling, const RasterOptions& options, bool occlusion, cuda::ViewsOf of,
         const Streamer& streamer) {
        check_views(views);
        cuda::DeviceDepths depths;
        {
          nb::gil_scoped_release released;
          f.context.init_context(views, culling);
          const std::shared_lock held(scene.lock);
          depths = device.draw_views(scene, Streamer::Hold(&streamer), views, culling, options, occlusion, of,
                                     f.cull_stats, f.raster_stats);
        }
        return nb::make_tuple(all_stats(f), depths);
      },
      "frame"_a, "scene"_a, "views"_a, "culling"_a, "options"_a, "occlusion"_a, "of"_a, "streamer"_a);
}

// What Frame has of the same names, of the picture that the device holds; False: it holds another one.
void bind_planes_for_the_host(nb::class_<cuda::DeviceFrame>& c) {
  c.def(
      "resolve",
      [](cuda::DeviceFrame& device, const Frame& f, Ids instance, Ids cluster, Ids triangle, Ids level,
         Ids material, Values normal, Values uv, Values color, Values velocity) {
        const ResolveTargets targets = targets_of(f.buffer, {instance, cluster, triangle, level, material},
                                                  {normal, uv, color, velocity});
        nb::gil_scoped_release released;
        return device.resolve(f.picture, targets);
      },
      "frame"_a, "instance"_a.none(), "cluster"_a.none(), "triangle"_a.none(), "level"_a.none(),
      "material"_a.none(), "normal"_a.none(), "uv"_a.none(), "color"_a.none(), "velocity"_a.none());
  c.def(
      "resolve_albedo",
      [](cuda::DeviceFrame& device, const Frame& f, Values out) {
        float* const albedo = plane_of("resolve_albedo: out", out, f.buffer, 4);
        nb::gil_scoped_release released;
        return device.resolve_albedo(f.picture, albedo);
      },
      "frame"_a, "out"_a.noconvert());
  c.def(
      "find_light",
      [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens, const std::vector<Light>& lights,
         const std::vector<View>& views, const cuda::DeviceDepths& maps, Values share, Values direct) {
        check_lens(f.buffer, lens);
        const Lights all = lights_of(lights, views, maps);
        const LightTargets targets = light_targets_of(f.buffer, lights.size(), share, direct);
        nb::gil_scoped_release released;
        return device.find_light(f.picture, lens_of(lens), all, maps, targets);
      },
      "frame"_a, "lens"_a, "lights"_a, "views"_a, "maps"_a, "share"_a.none(), "direct"_a.none());
  c.def(
      "shade",
      [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens, Base base,
         Array<float, nb::shape<3>> light, float relief, Ramp ramp, uint32_t top_level, Ramp background,
         const MaybeLights& lights, const std::vector<View>& views, const cuda::DeviceDepths* maps,
         Bytes out) {
        check_lens(f.buffer, lens);
        const Shading shading = shading_of(f.buffer, base, light, relief, ramp, top_level, background);
        uint8_t* const picture = plane_of("shade: out", out, f.buffer, 3);
        return with_lights(lights, views, maps, [&](const Lights* all) {
          return device.shade(f.picture, lens_of(lens), all, maps, shading, picture);
        });
      },
      "frame"_a, "lens"_a, "base"_a, "light"_a.noconvert(), "relief"_a, "ramp"_a.noconvert(), "top_level"_a,
      "background"_a.noconvert(), "lights"_a.none(), "views"_a, "maps"_a.none(), "out"_a.noconvert());
}

// Arrays in device memory; None: the device holds another picture.
void bind_planes_that_stay(nb::class_<cuda::DeviceFrame>& c) {
  c.def("holds", [](const cuda::DeviceFrame& device, const Frame& f) { return device.holds(f.picture); });
  c.def(
      "plane",
      [](cuda::DeviceFrame& device, const Frame& f, cuda::Plane which) {
        cuda::DeviceMemory plane;
        {
          nb::gil_scoped_release released;
          plane = device.plane(f.picture, which);
        }
        return plane_array(f, which, plane);
      },
      "frame"_a, "which"_a);
  c.def(
      "distances",
      [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens) {
        cuda::DeviceMemory plane;
        {
          nb::gil_scoped_release released;
          plane = device.distances(f.picture, lens_of(lens));
        }
        return array_of(plane, image_of(f), nb::dtype<float>());
      },
      "frame"_a, "lens"_a);
  c.def(
      "places",
      [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens) {
        check_lens(f.buffer, lens);
        cuda::DeviceMemory plane;
        {
          nb::gil_scoped_release released;
          plane = device.places(f.picture, lens_of(lens));
        }
        return array_of(plane, image_of(f, 3), nb::dtype<float>());
      },
      "frame"_a, "lens"_a);
  c.def(
      "light",
      [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens, const std::vector<Light>& lights,
         const std::vector<View>& views, const cuda::DeviceDepths& maps) {
        check_lens(f.buffer, lens);
        const Lights all = lights_of(lights, views, maps);
        cuda::DeviceMemory plane;
        {
          nb::gil_scoped_release released;
          plane = device.light(f.picture, lens_of(lens), all, maps);
        }
        return array_of(plane, {lights.size(), size_t(f.buffer.height), size_t(f.buffer.width)},
                        nb::dtype<float>());
      },
      "frame"_a, "lens"_a, "lights"_a, "views"_a, "maps"_a);
  c.def(
      "shaded",
      [](cuda::DeviceFrame& device, const Frame& f, const CameraLens& lens, Base base,
         Array<float, nb::shape<3>> light, float relief, Ramp ramp, uint32_t top_level, Ramp background,
         const MaybeLights& lights, const std::vector<View>& views, const cuda::DeviceDepths* maps) {
        check_lens(f.buffer, lens);
        const Shading shading = shading_of(f.buffer, base, light, relief, ramp, top_level, background);
        const cuda::DeviceMemory picture = with_lights(lights, views, maps, [&](const Lights* all) {
          return device.shaded(f.picture, lens_of(lens), all, maps, shading);
        });
        return array_of(picture, image_of(f, 3), nb::dtype<uint8_t>());
      },
      "frame"_a, "lens"_a, "base"_a, "light"_a.noconvert(), "relief"_a, "ramp"_a.noconvert(), "top_level"_a,
      "background"_a.noconvert(), "lights"_a.none(), "views"_a, "maps"_a.none());
}

}  // namespace

void nanite_cull::bind_device(nb::module_& m) {
  bind_memory(m);
  nb::class_<cuda::DeviceFrame> c(m, "DeviceFrame");
  c.def(nb::init<>()).def("forget", &cuda::DeviceFrame::forget);
  bind_drawing(c);
  bind_planes_for_the_host(c);
  bind_planes_that_stay(c);
}

#endif
