// Python's door to the core: check, unwrap, call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/streaming.h"
#include "build/build.h"
#include "build/meshopt_api.h"
#include "build/validate.h"
#include "cull/cull.h"
#include "native/check.h"
#include "native/dispatch.h"
#include "native/parallel.h"
#include "raster/two_pass.h"
#include "resolve/cut_mesh.h"
#include "resolve/light.h"
#include "resolve/resolve.h"
#include "resolve/shade.h"
#include "store/ncl_file.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace nanite_cull;

namespace {

template <class T, class... Shape>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu, Shape...>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

template <class T>
const T* data_or_null(const std::optional<nb::ndarray<const T, nb::c_contig, nb::device::cpu>>& array) {
  return array ? array->data() : nullptr;
}

// A read-only view of a vector that `owner` keeps alive.
template <class T>
Out<const T> view_of(const std::vector<T>& values, std::vector<size_t> shape, nb::handle owner) {
  return Out<const T>(values.data(), shape.size(), shape.data(), owner);
}

// One member of an array of structs, as a strided view.
template <class T, class S>
Out<const T> member_of(const std::vector<S>& records, const T* first, nb::handle owner) {
  const size_t shape[1] = {records.size()};
  const int64_t strides[1] = {sizeof(S) / sizeof(T)};
  return Out<const T>(records.empty() ? nullptr : first, 1, shape, owner, strides);
}

std::shared_ptr<Asset> build_asset(std::optional<Array<float>> positions,
                                   std::optional<Array<double>> positions64, Array<uint32_t> faces,
                                   std::optional<Array<float>> normals, std::optional<Array<float>> uvs,
                                   std::optional<Array<float>> colors,
                                   std::optional<Array<uint32_t>> materials,
                                   std::optional<Array<uint8_t>> lock, const BuildOptions& options,
                                   std::optional<std::function<void(double, std::string)>> progress) {
  MeshInput mesh;
  mesh.positions = data_or_null<float>(positions), mesh.positions64 = data_or_null<double>(positions64);
  mesh.vertex_count = positions ? positions->shape(0) : positions64->shape(0);
  mesh.lock = data_or_null<uint8_t>(lock);
  mesh.faces = faces.data(), mesh.face_count = faces.shape(0);
  mesh.normals = data_or_null<float>(normals), mesh.uvs = data_or_null<float>(uvs);
  mesh.colors = data_or_null<float>(colors), mesh.materials = data_or_null<uint32_t>(materials);
  Progress report;
  if (progress)
    report = [&](double share, const char* step) {
      nb::gil_scoped_acquire held;
      (*progress)(share, step);
    };
  nb::gil_scoped_release released;
  return std::make_shared<Asset>(build(mesh, options, report));
}

// A numpy array that owns its memory.
template <class T>
nb::ndarray<nb::numpy, T> owned(T* data, std::initializer_list<size_t> shape) {
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

// What one frame leaves behind; reused by the next.
struct Frame {
  CullContext context;
  VisibleClusters visible;
  Draws draws;
  VisibilityBuffer buffer;
  Motion motion;
  CullStats cull_stats;
  RasterStats raster_stats;
};

void bind_asset(nb::module_& m) {
  nb::class_<BuildReport>(m, "BuildReport")
      .def_ro("input_triangles", &BuildReport::input_triangles)
      .def_ro("input_vertices", &BuildReport::input_vertices)
      .def_ro("degenerate_triangles", &BuildReport::degenerate_triangles)
      .def_ro("vanished_triangles", &BuildReport::vanished_triangles)
      .def_ro("welded_positions", &BuildReport::welded_positions)
      .def_ro("stuck_groups", &BuildReport::stuck_groups)
      .def_ro("fallback_groups", &BuildReport::fallback_groups)
      .def_ro("simplified_groups", &BuildReport::simplified_groups)
      .def_ro("measured_larger", &BuildReport::measured_larger)
      .def_ro("measured_ratio", &BuildReport::measured_ratio)
      .def_ro("roots", &BuildReport::roots)
      .def_ro("root_triangles", &BuildReport::root_triangles)
      .def_ro("max_error", &BuildReport::max_error)
      .def_ro("seconds_weld", &BuildReport::seconds_weld)
      .def_ro("seconds_leaves", &BuildReport::seconds_leaves)
      .def_ro("seconds_levels", &BuildReport::seconds_levels)
      .def_ro("seconds_hierarchy", &BuildReport::seconds_hierarchy);

  nb::class_<BuildOptions>(m, "BuildOptions")
      .def(nb::init<>())
      .def_rw("max_triangles", &BuildOptions::max_triangles)
      .def_rw("group_size", &BuildOptions::group_size)
      .def_rw("width", &BuildOptions::width)
      .def_rw("position_bits", &BuildOptions::position_bits)
      .def_rw("step", &BuildOptions::step)
      .def_rw("drop_vanishing", &BuildOptions::drop_vanishing)
      .def("set_origin",
           [](BuildOptions& o, double x, double y, double z) {
             o.set_origin = true;
             o.origin[0] = x, o.origin[1] = y, o.origin[2] = z;
           })
      .def_rw("normal_weight", &BuildOptions::normal_weight)
      .def_rw("uv_weight", &BuildOptions::uv_weight)
      .def_rw("color_weight", &BuildOptions::color_weight)
      .def_rw("keep_source", &BuildOptions::keep_source)
      .def_rw("threads", &BuildOptions::threads);

  auto floats = [](std::vector<float> Vertices::* member, size_t width) {
    return [member, width](nb::handle_t<Vertices> self) {
      const Vertices& v = nb::cast<const Vertices&>(self);
      return view_of(v.*member, {(v.*member).size() / width, width}, self);
    };
  };
  nb::class_<Vertices>(m, "Vertices")
      .def_prop_ro("positions", floats(&Vertices::positions, 3))
      .def_prop_ro("normals", floats(&Vertices::normals, 3))
      .def_prop_ro("uvs", floats(&Vertices::uvs, 2))
      .def_prop_ro("colors", floats(&Vertices::colors, 4))
      .def_prop_ro("materials", [](nb::handle_t<Vertices> s) {
        auto& v = nb::cast<const Vertices&>(s);
        return view_of(v.materials, {v.materials.size()}, s);
      });
  nb::class_<Page, Vertices>(m, "Page").def_prop_ro("triangles", [](nb::handle_t<Page> s) {
    auto& p = nb::cast<const Page&>(s);
    return view_of(p.triangles, {p.triangles.size() / 3, 3}, s);
  });
  nb::class_<Asset, Vertices>(m, "Asset")
      .def_ro("step", &Asset::step)
      .def_prop_ro("origin",
                   [](const Asset& a) { return nb::make_tuple(a.origin[0], a.origin[1], a.origin[2]); })
      .def_prop_ro("has_colors",
                   [](const Asset& a) {
                     return a.file ? (a.file->tables().header.start.flags & has_colors) != 0
                                   : !a.colors.empty();
                   })
      .def_prop_ro("vertex_count",
                   [](const Asset& a) {
                     return a.file ? size_t(a.file->tables().header.start.vertices) : a.vertex_count();
                   })
      .def("whole",
           [](std::shared_ptr<Asset> a) {
             if (!a->file) return a;
             nb::gil_scoped_release released;
             return std::make_shared<Asset>(a->file->load());
           })
      .def_ro("width", &Asset::width)
      .def_ro("depth", &Asset::depth)
      .def_ro("levels", &Asset::levels)
      .def_ro("report", &Asset::report)
      .def_prop_ro("vertex_refs",
                   [](nb::handle_t<Asset> s) {
                     auto& a = nb::cast<const Asset&>(s);
                     return view_of(a.vertex_refs, {a.vertex_refs.size()}, s);
                   })
      .def_prop_ro("triangles",
                   [](nb::handle_t<Asset> s) {
                     auto& a = nb::cast<const Asset&>(s);
                     return view_of(a.triangles, {a.triangle_count(), 3}, s);
                   })
      .def_prop_ro("leaf_source",
                   [](nb::handle_t<Asset> s) {
                     auto& a = nb::cast<const Asset&>(s);
                     return view_of(a.leaf_source, {a.leaf_source.size()}, s);
                   })
      // tables, column by column
      .def("cluster_column",
           [](nb::handle_t<Asset> s, const std::string& name) -> nb::object {
             auto& a = nb::cast<const Asset&>(s);
             const Cluster* c = a.clusters.data();
             if (name == "vertex_begin") return nb::cast(member_of(a.clusters, &c->vertex_begin, s));
             if (name == "triangle_begin") return nb::cast(member_of(a.clusters, &c->triangle_begin, s));
             if (name == "vertex_count") return nb::cast(member_of(a.clusters, &c->vertex_count, s));
             if (name == "triangle_count") return nb::cast(member_of(a.clusters, &c->triangle_count, s));
             if (name == "group") return nb::cast(member_of(a.clusters, &c->group, s));
             if (name == "source_group") return nb::cast(member_of(a.clusters, &c->source_group, s));
             if (name == "level") return nb::cast(member_of(a.clusters, &c->level, s));
             if (name == "longest_edge") return nb::cast(member_of(a.clusters, &c->longest_edge, s));
             const ClusterBounds& b = a.bounds;
             const std::pair<const char*, const std::vector<float>*> columns[] = {
                 {"lo_x", &b.lo[0]}, {"lo_y", &b.lo[1]}, {"lo_z", &b.lo[2]}, {"hi_x", &b.hi[0]},
                 {"hi_y", &b.hi[1]}, {"hi_z", &b.hi[2]}, {"x", &b.x},        {"y", &b.y},
                 {"z", &b.z},        {"r", &b.r},        {"error", &b.error}};
             for (auto& [column, values] : columns)
               if (name == column) return nb::cast(view_of(*values, {values->size()}, s));
             throw nb::key_error(name.c_str());
           })
      .def("group_column",
           [](nb::handle_t<Asset> s, const std::string& name) -> nb::object {
             auto& a = nb::cast<const Asset&>(s);
             const Group* g = a.groups.data();
             if (name == "error") return nb::cast(member_of(a.groups, &g->bounds.error, s));
             if (name == "x") return nb::cast(member_of(a.groups, &g->bounds.sphere.x, s));
             if (name == "y") return nb::cast(member_of(a.groups, &g->bounds.sphere.y, s));
             if (name == "z") return nb::cast(member_of(a.groups, &g->bounds.sphere.z, s));
             if (name == "r") return nb::cast(member_of(a.groups, &g->bounds.sphere.r, s));
             if (name == "cluster_begin") return nb::cast(member_of(a.groups, &g->cluster_begin, s));
             if (name == "cluster_count") return nb::cast(member_of(a.groups, &g->cluster_count, s));
             if (name == "level") return nb::cast(member_of(a.groups, &g->level, s));
             throw nb::key_error(name.c_str());
           })
      .def_prop_ro("nodes",
                   [](nb::handle_t<Asset> s) {  // (nodes, 13, 8) words: x y z r, lo, hi, errors, child
                     auto& a = nb::cast<const Asset&>(s);
                     const size_t shape[3] = {a.nodes.size(), sizeof(Node) / 32, 8};
                     return Out<const uint32_t>(reinterpret_cast<const uint32_t*>(a.nodes.data()), 3, shape,
                                                s);
                   })
      .def_prop_ro("box",
                   [](const Asset& a) {
                     return nb::make_tuple(nb::make_tuple(a.box.lo[0], a.box.lo[1], a.box.lo[2]),
                                           nb::make_tuple(a.box.hi[0], a.box.hi[1], a.box.hi[2]));
                   })
      .def_prop_ro(
          "sphere",
          [](const Asset& a) { return nb::make_tuple(a.sphere.x, a.sphere.y, a.sphere.z, a.sphere.r); })
      .def(
          "validate", [](const Asset& a, size_t limit) { return validate(a, limit); }, "limit"_a,
          nb::call_guard<nb::gil_scoped_release>());

  m.def(
      "encode_ncl",
      [](const Asset& asset, int threads, size_t most_page_bytes) {
        std::vector<uint8_t> bytes;
        {
          nb::gil_scoped_release released;
          bytes = encode_ncl(asset, threads, most_page_bytes);
        }
        return nb::bytes(bytes.data(), bytes.size());
      },
      "asset"_a, "threads"_a, "most_page_bytes"_a = page_bytes);
  m.def(
      "read_ncl",
      [](const std::string& path, int threads, bool verify_hashes) {
        ReadOptions options;
        options.threads = threads, options.verify_hashes = verify_hashes;
        nb::gil_scoped_release released;
        return std::make_shared<Asset>(read_ncl(NclBytes::of_file(path), options));
      },
      "path"_a, "threads"_a, "verify_hashes"_a = true);

  nb::class_<NclFile>(m, "NclFile")
      .def(
          "__init__",
          [](NclFile* self, const std::string& path, bool verify_hashes, int threads) {
            ReadOptions options;
            options.verify_hashes = verify_hashes, options.threads = threads;
            nb::gil_scoped_release released;
            new (self) NclFile(NclBytes::of_file(path), options);
          },
          "path"_a, "verify_hashes"_a, "threads"_a)
      .def("graph", [](const NclFile& f) { return std::make_shared<Asset>(f.graph()); })
      .def(
          "load", [](const NclFile& f) { return std::make_shared<Asset>(f.load()); },
          nb::call_guard<nb::gil_scoped_release>())
      // (parts, 5): group, first cluster, clusters, page, slot
      .def("parts",
           [](nb::handle_t<NclFile> s) {
             const auto& parts = nb::cast<const NclFile&>(s).tables().parts;
             const size_t shape[2] = {parts.size(), sizeof(PartRecord) / 4};
             return Out<const uint32_t>(&parts.data()->group, 2, shape, s);
           })
      // bytes of each page
      .def("page_sizes",
           [](nb::handle_t<NclFile> s) {
             const auto& pages = nb::cast<const NclFile&>(s).tables().pages;
             return member_of(pages, &pages.data()->bytes, s);
           })
      .def("dependencies",
           [](const NclFile& f, uint32_t group) {
             const NclTables& t = f.tables();
             native::demand(group < t.groups.size(), [&] {
               return "NclFile.dependencies: group must be 0 to " + std::to_string(t.groups.size() - 1) +
                      ", got " + std::to_string(group);
             });
             const auto* first = t.dependencies.data() + t.groups[group].dependency_begin;
             return std::vector<uint32_t>(first, first + t.groups[group].dependencies);
           })
      // decodes pages [first, last) and tells how many bytes that gives: for measuring
      .def(
          "decode",
          [](const NclFile& f, uint32_t first, uint32_t last) {
            std::vector<DecodedPart> parts;
            size_t bytes = 0;
            for (; first < last; ++first) {
              f.decode_page(first, parts);
              for (const DecodedPart& part : parts)
                bytes += part.vertices.size() * sizeof(int32_t) + part.triangles.size();
            }
            return bytes;
          },
          "first"_a, "last"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "page",
          [](const NclFile& f, uint32_t page) { return std::const_pointer_cast<Page>(f.read_page(page)); },
          "page"_a, nb::call_guard<nb::gil_scoped_release>());

  m.def(
      "decode_ncl",
      [](nb::bytes data, std::vector<uint32_t> leaf_source) {
        auto asset = std::make_shared<Asset>(
            read_ncl({reinterpret_cast<const uint8_t*>(data.data()), data.size()}, ReadOptions{}));
        asset->leaf_source = std::move(leaf_source);
        return asset;
      },
      "data"_a, "leaf_source"_a);

  m.def("build", &build_asset, "positions"_a.noconvert().none(), "positions64"_a.noconvert().none(),
        "faces"_a.noconvert(), "normals"_a.noconvert().none(), "uvs"_a.noconvert().none(),
        "colors"_a.noconvert().none(), "materials"_a.noconvert().none(), "lock"_a.noconvert().none(),
        "options"_a, "progress"_a.none());
}

void bind_view(nb::module_& m) {
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

template <class T>
T* writable(const std::optional<nb::ndarray<T, nb::c_contig, nb::device::cpu>>& array) {
  return array ? array->data() : nullptr;
}

// A lens that owns its rays.
struct OwningLens : Lens {
  std::vector<double> x, y;
};

void bind_shading(nb::module_& m) {
  nb::enum_<Base>(m, "Base")
      .value("plain", Base::plain)
      .value("color", Base::color)
      .value("cluster", Base::cluster)
      .value("triangle", Base::triangle)
      .value("instance", Base::instance)
      .value("level", Base::level);
  nb::class_<OwningLens>(m, "Lens")
      .def(nb::init<>())
      .def_rw("orthographic", &OwningLens::orthographic)
      .def_rw("near", &OwningLens::near_distance)
      .def_rw("far", &OwningLens::far_distance)
      .def_rw("scale", &OwningLens::scale)
      .def_rw("pixel", &OwningLens::pixel)
      .def(
          "set",
          [](OwningLens& l, Array<float, nb::shape<3, 3>> rotation, Array<double, nb::shape<-1>> x,
             Array<double, nb::shape<-1>> y) {
            std::copy_n(rotation.data(), 9, l.rotation);
            l.x.assign(x.data(), x.data() + x.shape(0)), l.y.assign(y.data(), y.data() + y.shape(0));
            l.ray_x = l.x.data(), l.ray_y = l.y.data();
          },
          "rotation"_a.noconvert(), "ray_x"_a.noconvert(), "ray_y"_a.noconvert());

  nb::class_<Light>(m, "Light")
      .def(
          "__init__",
          [](Light* self, bool sun, std::array<double, 3> at, float strength, float bias, uint32_t first_map,
             uint32_t maps) {
            new (self) Light{sun, {at[0], at[1], at[2]}, strength, bias, first_map, maps};
          },
          "sun"_a, "at"_a, "strength"_a, "bias"_a, "first_map"_a, "maps"_a);
}

void bind_frame(nb::module_& m) {
  using Ids = std::optional<nb::ndarray<uint32_t, nb::c_contig, nb::device::cpu>>;
  using Values = std::optional<nb::ndarray<float, nb::c_contig, nb::device::cpu>>;
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
            h.pyramid.build(depth.data(), static_cast<int>(depth.shape(1)), static_cast<int>(depth.shape(0)),
                            0);
            h.last = {view, &scene, scene.epoch()};
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
             const RasterOptions& options, const Streamer& streamer,
             nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu> out) {
            RasterStats all;
            {
              nb::gil_scoped_release released;
              f.context.init_context(views, culling);
              f.context.cull(scene, f.visible, f.cull_stats, &f.draws, &streamer);
              for (size_t i = 0; i < views.size(); ++i) {
                raster(f.draws, views[i], f.visible, options, f.buffer, f.raster_stats,
                       static_cast<uint32_t>(i));
                std::copy(f.buffer.depth.begin(), f.buffer.depth.end(),
                          out.data() + i * f.buffer.depth.size());
                all.clusters += f.raster_stats.clusters,
                    all.drawn_triangles += f.raster_stats.drawn_triangles;
                all.clipped_triangles += f.raster_stats.clipped_triangles;
              }
            }
            nb::dict d = cull_stats(f.cull_stats);
            d.update(raster_stats(all));
            return d;
          },
          "scene"_a, "views"_a, "culling"_a, "options"_a, "streamer"_a, "out"_a.noconvert())
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
            ResolveTargets t;
            t.instance = writable(instance), t.cluster = writable(cluster), t.triangle = writable(triangle),
            t.level = writable(level);
            t.material = writable(material), t.normal = writable(normal), t.uv = writable(uv),
            t.color = writable(color), t.velocity = writable(velocity);
            nb::gil_scoped_release released;
            resolve(f.draws, view, f.visible, f.buffer, f.motion, t, threads);
          },
          "view"_a, "instance"_a.none(), "cluster"_a.none(), "triangle"_a.none(), "level"_a.none(),
          "material"_a.none(), "normal"_a.none(), "uv"_a.none(), "color"_a.none(), "velocity"_a.none(),
          "threads"_a)
      .def(
          "unproject",
          [](const Frame& f, const OwningLens& lens, Array<double, nb::shape<3, 3>> to_world,
             Array<double, nb::shape<3>> eye, nb::ndarray<float, nb::c_contig, nb::device::cpu> out,
             int threads) {
            nb::gil_scoped_release released;
            unproject(f.buffer, lens, to_world.data(), eye.data(), out.data(), threads);
          },
          "lens"_a, "to_world"_a.noconvert(), "eye"_a.noconvert(), "out"_a.noconvert(), "threads"_a)
      // `depth`: (maps, size, size) of `maps`; `share` (lights, height, width) and `direct` (height, width)
      .def(
          "find_light",
          [](const Frame& f, const View& view, const OwningLens& lens,
             Array<double, nb::shape<3, 3>> to_world, Array<double, nb::shape<3>> eye,
             const std::vector<Light>& lights, const std::vector<View>& maps,
             Array<float, nb::shape<-1, -1, -1>> depth, Values share, Values direct, int threads) {
            nb::gil_scoped_release released;
            find_light(f.draws, view, f.visible, f.buffer, {lens, to_world.data(), eye.data()}, lights,
                       {maps, depth.data(), static_cast<int>(depth.shape(1))}, writable(share),
                       writable(direct), threads);
          },
          "view"_a, "lens"_a, "to_world"_a.noconvert(), "eye"_a.noconvert(), "lights"_a, "maps"_a,
          "depth"_a.noconvert(), "share"_a.none(), "direct"_a.none(), "threads"_a)
      .def(
          "shade",
          [](Frame& f, const View& view, const OwningLens& lens, Base base, Array<float, nb::shape<3>> light,
             Values direct, float relief, Array<float, nb::shape<-1, 3>> ramp, uint32_t top_level,
             Array<float, nb::shape<-1, 3>> background,
             nb::ndarray<uint8_t, nb::c_contig, nb::device::cpu> out, int threads) {
            ShadeOptions options;
            options.base = base, options.relief = relief, options.top_level = top_level;
            std::copy_n(light.data(), 3, options.light), options.direct = writable(direct);
            options.ramp = ramp.data(), options.ramp_size = static_cast<int>(ramp.shape(0));
            options.background = background.data();
            nb::gil_scoped_release released;
            shade(f.draws, view, f.visible, f.buffer, lens, options, out.data(), threads);
          },
          "view"_a, "lens"_a, "base"_a, "light"_a.noconvert(), "direct"_a.none(), "relief"_a,
          "ramp"_a.noconvert(), "top_level"_a, "background"_a.noconvert(), "out"_a.noconvert(), "threads"_a)
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

}  // namespace

NB_MODULE(_C, m) {
  m.doc() = "The core of nanite_cull; private, its functions check little.";
  m.def("open_meshoptimizer", [](const std::string& path) { return open_meshopt(path).path; });
  m.def("instruction_set", [] { return native::name(native::isa()); });
  m.def("max_threads", [] { return native::max_threads(); });
  bind_asset(m);
  bind_view(m);
  bind_streaming(m);
  bind_shading(m);
  bind_frame(m);
}
