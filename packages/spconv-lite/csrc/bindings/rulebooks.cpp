// Rulebooks, and their transposes.
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <utility>

#include <bindings/cpu.h>
#include <bindings/stages.h>
#include <cpu/rulebook.h>

namespace nb = nanobind;
using namespace nb::literals;
using native::Dim;
using native::require;
using native::operator==;  // the types live in native::dlpack
using native::Tensor;

namespace spconv_lite::bindings {
namespace {

// A rulebook and the Python tensor whose memory it reads.
struct OwnedRulebook {
  nb::object indices;
  Rulebook rulebook;
};

OwnedRulebook* build_rulebook(nb::object owner, const Tensor& indices, int ndim, int64_t batch_size,
                              const Axes& in_shape, const Axes& out_shape, const Axes& kernel,
                              const Axes& stride, const Axes& padding, const Axes& dilation, int kind,
                              int threads) {
  Dim n("N");
  require(indices, "get_indice_pairs", "indices", cpu, native::int32, n, ndim + 1);
  const Geometry g = make_geometry(ndim, batch_size, in_shape, out_shape, kernel, stride, padding, dilation);
  nb::gil_scoped_release released;
  Rulebook rulebook(indices.data_as<int32_t>(), n.length(), g, static_cast<Kind>(kind), threads);
  return new OwnedRulebook{std::move(owner), std::move(rulebook)};
}

void require_out_indices(const Tensor& out_indices, const Rulebook& rulebook) {
  require(out_indices, "get_indice_pairs", "out_indices", cpu, native::int32, rulebook.out_rows(),
          rulebook.geometry().ndim + 1);
}

void write_compact(const OwnedRulebook& self, const std::optional<Tensor>& out_indices, const Tensor& pair_in,
                   const Tensor& pair_out, const Tensor& block_offset) {
  const auto& rulebook = self.rulebook;
  if (out_indices) require_out_indices(*out_indices, rulebook);
  require(pair_in, "get_indice_pairs", "pair_in", cpu, native::int32, rulebook.pairs());
  require(pair_out, "get_indice_pairs", "pair_out", cpu, native::uint8, rulebook.pairs());
  require(block_offset, "get_indice_pairs", "block_offset", cpu, native::int64, rulebook.block_offsets());
  nb::gil_scoped_release released;
  if (out_indices) rulebook.write_out_indices(out_indices->data_as<int32_t>());
  rulebook.write_compact(pair_in.data_as<int32_t>(), pair_out.data_as<uint8_t>(),
                         block_offset.data_as<int64_t>());
}

void write_padded(const OwnedRulebook& self, const Tensor& out_indices, const Tensor& indice_pairs,
                  const Tensor& indice_num) {
  const auto& rulebook = self.rulebook;
  const int64_t volume = rulebook.geometry().volume();
  require_out_indices(out_indices, rulebook);
  require(indice_num, "get_indice_pairs", "indice_num", cpu, native::int32, volume);
  require(indice_pairs, "get_indice_pairs", "indice_pairs", cpu, native::int32, 2, volume,
          rulebook.in_rows());
  nb::gil_scoped_release released;
  rulebook.write_out_indices(out_indices.data_as<int32_t>());
  rulebook.write_padded(indice_pairs.data_as<int32_t>(), indice_num.data_as<int32_t>());
}

void transpose_rulebook(const Tensor& pair_in, const Tensor& pair_out, const Tensor& block_offset,
                        int64_t in_rows, int64_t out_rows, int64_t volume, const Tensor& pair_in_t,
                        const Tensor& pair_out_t, const Tensor& block_offset_t, int threads) {
  const auto map = make_map("transpose_rulebook", pair_in, pair_out, block_offset, in_rows, out_rows, volume);
  const auto to =
      make_map("transpose_rulebook", pair_in_t, pair_out_t, block_offset_t, out_rows, in_rows, volume);
  native::demand(map.pairs == to.pairs,
                 [] { return std::string("transpose_rulebook: outputs have another length"); });
  nb::gil_scoped_release released;
  spconv_lite::transpose_rulebook(map.pair_in, map.pair_out, map.block_offset, map.pairs, in_rows, out_rows,
                                  volume, threads, pair_in_t.data_as<int32_t>(),
                                  pair_out_t.data_as<uint8_t>(), block_offset_t.data_as<int64_t>());
}

}  // namespace

void bind_rulebooks(nb::module_& m) {
  nb::class_<OwnedRulebook>(m, "Rulebook")
      .def_prop_ro("out_rows", [](const OwnedRulebook& self) { return self.rulebook.out_rows(); })
      .def_prop_ro("pairs", [](const OwnedRulebook& self) { return self.rulebook.pairs(); })
      .def_prop_ro("block_offsets", [](const OwnedRulebook& self) { return self.rulebook.block_offsets(); })
      .def("write_compact", &write_compact, "out_indices"_a.none(), "pair_in"_a, "pair_out"_a,
           "block_offset"_a)
      .def("write_padded", &write_padded);
  m.def("build_rulebook", &build_rulebook, nb::rv_policy::take_ownership);
  m.def("transpose_rulebook", &bindings::transpose_rulebook);
}

}  // namespace spconv_lite::bindings
