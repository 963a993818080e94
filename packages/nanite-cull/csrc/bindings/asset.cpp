// Building a mesh, its arrays, and files.
#include "bindings/arrays.h"
#include "bindings/stages.h"
#include "build/build.h"
#include "build/surfaces.h"
#include "build/validate.h"
#include "native/check.h"
#include "store/ncl_file.h"

using namespace nanite_cull;

namespace {

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

}  // namespace

void nanite_cull::bind_asset(nb::module_& m) {
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
      .def("set_linear_colors",
           [](BuildOptions& o, const std::vector<bool>& of_materials) {
             o.linear_colors.assign(of_materials.begin(), of_materials.end());
           })
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
      .def(
          "set_surfaces",
          [](Asset& a, const Surfaces& surfaces) { a.surfaces = std::make_shared<const Surfaces>(surfaces); },
          "surfaces"_a)
      // of a file's asset, the bytes that were stored with it
      .def("stored_materials",
           [](const Asset& a) {
             const std::vector<uint8_t> bytes = a.file ? a.file->materials() : std::vector<uint8_t>();
             return nb::bytes(bytes.data(), bytes.size());
           })
      .def_ro("step", &Asset::step)
      .def_prop_ro("origin",
                   [](const Asset& a) { return nb::make_tuple(a.origin[0], a.origin[1], a.origin[2]); })
      .def_prop_ro("has_colors",
                   [](const Asset& a) {
                     return a.file ? (a.file->tables().header.start.flags & has_colors) != 0
                                   : !a.colors.empty();
                   })
      .def_prop_ro("has_uvs",
                   [](const Asset& a) {
                     return a.file ? (a.file->tables().header.start.flags & has_uvs) != 0 : !a.uvs.empty();
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
      [](const Asset& asset, int threads, size_t most_page_bytes, nb::bytes materials) {
        const auto* first = reinterpret_cast<const uint8_t*>(materials.data());
        const std::vector<uint8_t> kept(first, first + materials.size());
        std::vector<uint8_t> bytes;
        {
          nb::gil_scoped_release released;
          bytes = encode_ncl(asset, threads, most_page_bytes, kept);
        }
        return nb::bytes(bytes.data(), bytes.size());
      },
      "asset"_a, "threads"_a, "most_page_bytes"_a = page_bytes, "materials"_a = nb::bytes("", 0));
  m.def(
      "read_ncl",
      [](const std::string& path, int threads, bool verify_hashes) {
        ReadOptions options;
        options.threads = threads, options.verify_hashes = verify_hashes;
        std::vector<uint8_t> materials;
        std::shared_ptr<Asset> asset;
        {
          nb::gil_scoped_release released;
          asset = std::make_shared<Asset>(read_ncl(NclBytes::of_file(path), options, &materials));
        }
        return nb::make_tuple(asset, nb::bytes(materials.data(), materials.size()));
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
      .def("materials",
           [](const NclFile& f) {
             const std::vector<uint8_t> bytes = f.materials();
             return nb::bytes(bytes.data(), bytes.size());
           })
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
