// spconv_lite._C.cuda: the CUDA kernels. Check, unwrap, call; work goes to torch's current stream of the
// tensors' device, which the caller makes the current device. Compiled and simulated, never run.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <optional>
#include <string>
#include <tuple>

#include <bindings/cuda.h>
#include <bindings/shared.h>
#include <cuda/conv.h>
#include <cuda/rulebook.h>
#include <native/on_device.h>

namespace nb = nanobind;
using namespace nb::literals;
using native::Dim;
using native::require;
using native::Tensor;
using native::operator==;
using native::operator!=;
using spconv_lite::Geometry;
using spconv_lite::cuda::Arithmetic;
using spconv_lite::cuda::Channels;
using spconv_lite::cuda::NeighbourTable;
using spconv_lite::cuda::Report;

namespace {

#if defined(NATIVE_CUDA_SIM)
constexpr auto device = native::dlpack::cpu;  // the simulator's device memory is the host's
#else
constexpr auto device = native::dlpack::cuda;
#endif

using ReportTuple = std::tuple<int32_t, int32_t, int32_t, int32_t>;
ReportTuple tuple_of(const Report& r) { return {r.outside_row, r.duplicate_row, r.unplaced, r.out_rows}; }

void require_workspace(const char* function, const Tensor& workspace, int64_t bytes) {
  require(workspace, function, "workspace", device, native::uint8, bytes);
}

int64_t require_indices(const char* function, const Tensor& indices, const Geometry& g) {
  Dim rows("N");
  require(indices, function, "indices", device, native::int32, rows, g.ndim + 1);
  return rows.length();
}

// ---- rulebooks ----

Report* require_report(const char* function, const Tensor& report) {
  require(report, function, "report", device, native::int32, sizeof(Report) / sizeof(int32_t));
  return reinterpret_cast<Report*>(report.data_as<int32_t>());
}

ReportTuple subm_neighbours(const Tensor& indices, const Geometry& g, const Tensor& table,
                            const Tensor& report, const Tensor& workspace) {
  const char* name = "subm_rulebook";
  const int64_t rows = require_indices(name, indices, g);
  require(table, name, "table", device, native::int32, g.volume(), rows);
  require_workspace(name, workspace, spconv_lite::cuda::subm_workspace_bytes(g, rows));
  const native::OnDevice on(name, indices, table, report, workspace);
  Report* const found = require_report(name, report);
  nb::gil_scoped_release released;
  spconv_lite::cuda::subm_neighbours(indices.data_as<int32_t>(), rows, g, table.data_as<int32_t>(), found,
                                     workspace.data_as<char>(), on.stream());
  return tuple_of(spconv_lite::cuda::read_report(found, on.stream()));
}

ReportTuple subm_indice_pairs(const Tensor& indices, const Geometry& g, const Tensor& indice_pairs,
                              const Tensor& indice_num, const Tensor& report, const Tensor& workspace) {
  const char* name = "get_indice_pairs";
  const int64_t rows = require_indices(name, indices, g);
  require(indice_pairs, name, "indice_pairs", device, native::int32, 2, g.volume(), rows);
  require(indice_num, name, "indice_num", device, native::int32, g.volume());
  require_workspace(name, workspace, spconv_lite::cuda::subm_workspace_bytes(g, rows));
  const native::OnDevice on(name, indices, indice_pairs, indice_num, report, workspace);
  Report* const found = require_report(name, report);
  nb::gil_scoped_release released;
  spconv_lite::cuda::subm_indice_pairs(indices.data_as<int32_t>(), rows, g, indice_pairs.data_as<int32_t>(),
                                       indice_num.data_as<int32_t>(), found, workspace.data_as<char>(),
                                       on.stream());
  return tuple_of(spconv_lite::cuda::read_report(found, on.stream()));
}

ReportTuple find_conv_sites(const Tensor& indices, const Geometry& g, bool transposed, const Tensor& report,
                            const Tensor& workspace) {
  const char* name = "rulebook";
  const int64_t rows = require_indices(name, indices, g);
  require_workspace(name, workspace, spconv_lite::cuda::conv_workspace_bytes(g, rows, transposed));
  const native::OnDevice on(name, indices, report, workspace);
  Report* const found = require_report(name, report);
  nb::gil_scoped_release released;
  return tuple_of(spconv_lite::cuda::find_conv_sites(indices.data_as<int32_t>(), rows, g, transposed, found,
                                                     workspace.data_as<char>(), on.stream()));
}

// Checks what the second step of a strided layer is given; returns the numbers of rows in and out.
std::pair<int64_t, int64_t> require_conv_step(const char* name, const Tensor& indices, const Geometry& g,
                                              bool transposed, const Tensor& out_indices,
                                              const Tensor& workspace, const Tensor& sort_workspace) {
  Dim out_rows("M");
  const int64_t rows = require_indices(name, indices, g);
  require(out_indices, name, "out_indices", device, native::int32, out_rows, g.ndim + 1);
  require_workspace(name, workspace, spconv_lite::cuda::conv_workspace_bytes(g, rows, transposed));
  require_workspace(name, sort_workspace, spconv_lite::cuda::sort_workspace_bytes(out_rows.length()));
  native::require_one_device(name, indices, out_indices, workspace, sort_workspace);
  return {rows, out_rows.length()};
}

void conv_neighbours(const Tensor& indices, const Geometry& g, bool transposed, const Tensor& out_indices,
                     const Tensor& targets, const Tensor& sources, const Tensor& workspace,
                     const Tensor& sort_workspace) {
  const char* name = "rulebook";
  const auto [rows, out_rows] =
      require_conv_step(name, indices, g, transposed, out_indices, workspace, sort_workspace);
  require(targets, name, "targets", device, native::int32, g.volume(), rows);
  require(sources, name, "sources", device, native::int32, g.volume(), out_rows);
  const native::OnDevice on(name, indices, targets, sources);
  const auto n = rows, m = out_rows;
  nb::gil_scoped_release released;
  spconv_lite::cuda::conv_neighbours(indices.data_as<int32_t>(), n, g, transposed, m,
                                     out_indices.data_as<int32_t>(), targets.data_as<int32_t>(),
                                     sources.data_as<int32_t>(), workspace.data_as<char>(),
                                     sort_workspace.data_as<char>(), on.stream());
}

void conv_indice_pairs(const Tensor& indices, const Geometry& g, bool transposed, const Tensor& out_indices,
                       const Tensor& indice_pairs, const Tensor& indice_num, const Tensor& workspace,
                       const Tensor& sort_workspace) {
  const char* name = "get_indice_pairs";
  const auto [rows, out_rows] =
      require_conv_step(name, indices, g, transposed, out_indices, workspace, sort_workspace);
  require(indice_pairs, name, "indice_pairs", device, native::int32, 2, g.volume(), rows);
  require(indice_num, name, "indice_num", device, native::int32, g.volume());
  const native::OnDevice on(name, indices, indice_pairs, indice_num);
  const auto n = rows, m = out_rows;
  nb::gil_scoped_release released;
  spconv_lite::cuda::write_conv_indice_pairs(indices.data_as<int32_t>(), n, g, transposed, m,
                                             out_indices.data_as<int32_t>(), indice_pairs.data_as<int32_t>(),
                                             indice_num.data_as<int32_t>(), workspace.data_as<char>(),
                                             sort_workspace.data_as<char>(), on.stream());
}

void turn_neighbours(const Tensor& table, const Tensor& other) {
  const char* name = "transpose_rulebook";
  Dim volume("K"), rows("M"), other_rows("N");
  require(table, name, "pair_in", device, native::int32, volume, rows);
  require(other, name, "the output", device, native::int32, volume, other_rows);
  const native::OnDevice on(name, table, other);
  nb::gil_scoped_release released;
  spconv_lite::cuda::turn_neighbours(table.data_as<int32_t>(), rows.length(), volume.length(),
                                     other_rows.length(), other.data_as<int32_t>(), on.stream());
}

void order_rows(const Tensor& table, const Tensor& order, const Tensor& masks, const Tensor& workspace) {
  const char* name = "rulebook";
  Dim volume("K"), rows("M");
  require(table, name, "table", device, native::int32, volume, rows);
  require(order, name, "order", device, native::int32, rows);
  require(masks, name, "masks", device, native::int32,
          spconv_lite::cuda::mask_count(rows.length(), volume.length()));
  require_workspace(name, workspace, spconv_lite::cuda::order_workspace_bytes(rows.length()));
  const native::OnDevice on(name, table, order, masks, workspace);
  nb::gil_scoped_release released;
  spconv_lite::cuda::order_rows(table.data_as<int32_t>(), rows.length(), volume.length(),
                                order.data_as<int32_t>(), masks.data_as<uint32_t>(),
                                workspace.data_as<char>(), on.stream());
}

// ---- convolution ----

Arithmetic arithmetic_of(const std::string& name) {
  if (name == "float32") return Arithmetic::float32;
  if (name == "float64") return Arithmetic::float64;
  if (name == "tf32") return Arithmetic::tf32;
  if (name == "float16") return Arithmetic::float16;
  if (name == "bfloat16") return Arithmetic::bfloat16;
  throw native::TypeError(
      "conv: the CUDA kernels compute in float16, bfloat16, float32, tf32 or float64, got " + name);
}

native::DType dtype_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::float64: return native::float64;
    case Arithmetic::float16: return native::float16;
    case Arithmetic::bfloat16: return native::bfloat16;
    default: return native::float32;
  }
}

// x is read and y written by the forward pass; the gradients swap roles.
struct Operands {
  Arithmetic arithmetic;
  Channels channels;
  int64_t in_rows, out_rows, volume;
};

Operands check_operands(const char* name, const Tensor& x, const Tensor& weight, const Tensor& y,
                        int64_t groups, const std::string& arithmetic) {
  const Arithmetic kind = arithmetic_of(arithmetic);
  const native::DType dtype = dtype_of(kind);
  const auto sizes =
      spconv_lite::bindings::check_operands(name, x, weight, y, groups, device, {dtype, dtype, dtype});
  native::require_one_device(name, x, weight, y);
  return {kind,
          {sizes.in_channels / groups, sizes.out_channels / groups, groups},
          sizes.in_rows,
          sizes.out_rows,
          sizes.volume};
}

// `rows` rows of a convolution with `volume` offsets. What the table names is not looked at: that would wait.
NeighbourTable check_table(const char* name, const Tensor& x, const Tensor& table, const Tensor& order,
                           const Tensor& masks, int64_t rows, int64_t volume) {
  require(table, name, "pair_in", device, native::int32, volume, rows);
  require(order, name, "pair_out", device, native::int32, rows);
  require(masks, name, "block_offset", device, native::int32, spconv_lite::cuda::mask_count(rows, volume));
  native::require_one_device(name, x, table, order, masks);
  return {table.data_as<int32_t>(), order.data_as<int32_t>(), masks.data_as<uint32_t>(), rows, volume};
}

void convolve(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& table,
              const Tensor& order, const Tensor& masks, const Tensor& y, int64_t groups,
              const std::string& arithmetic) {
  const Operands op = check_operands("conv", x, weight, y, groups, arithmetic);
  if (bias) require(*bias, "conv", "bias", device, x.dtype, op.channels.out * groups);
  const native::OnDevice on("conv", x, bias);
  const NeighbourTable rows = check_table("conv", x, table, order, masks, op.out_rows, op.volume);
  nb::gil_scoped_release released;
  spconv_lite::cuda::convolve(op.arithmetic, rows, op.channels, x.data_as<char>(), weight.data_as<char>(),
                              bias ? bias->data_as<char>() : nullptr, false, y.data_as<char>(), on.stream());
}

// `table` holds the targets of the input rows or, with mirror, the sources of a submanifold layer.
void convolve_back(const Tensor& gradient, const Tensor& weight, const Tensor& table, const Tensor& order,
                   const Tensor& masks, bool mirror, const Tensor& x_gradient, int64_t groups,
                   const std::string& arithmetic) {
  const char* name = "conv_input_grad";
  const Operands op = check_operands(name, x_gradient, weight, gradient, groups, arithmetic);
  const NeighbourTable rows = check_table(name, gradient, table, order, masks, op.in_rows, op.volume);
  const native::OnDevice on(name, gradient);
  nb::gil_scoped_release released;
  spconv_lite::cuda::convolve_back(op.arithmetic, rows, mirror, op.channels, gradient.data_as<char>(),
                                   weight.data_as<char>(), x_gradient.data_as<char>(), on.stream());
}

int64_t correlate_workspace_bytes(const Tensor& x, const Tensor& gradient, const Tensor& weight_gradient,
                                  int64_t groups, const std::string& arithmetic) {
  const Operands op = check_operands("conv_weight_grad", x, weight_gradient, gradient, groups, arithmetic);
  const native::OnDevice on("conv_weight_grad", x);
  return spconv_lite::cuda::correlate_workspace_bytes(op.arithmetic, op.out_rows, op.volume, op.channels);
}

void correlate(const Tensor& x, const Tensor& gradient, const Tensor& table, const Tensor& order,
               const Tensor& masks, const Tensor& weight_gradient, const Tensor& workspace, int64_t groups,
               const std::string& arithmetic) {
  const char* name = "conv_weight_grad";
  const Operands op = check_operands(name, x, weight_gradient, gradient, groups, arithmetic);
  const NeighbourTable rows = check_table(name, x, table, order, masks, op.out_rows, op.volume);
  const native::OnDevice on(name, x, workspace);
  const int64_t bytes =
      spconv_lite::cuda::correlate_workspace_bytes(op.arithmetic, op.out_rows, op.volume, op.channels);
  require_workspace(name, workspace, bytes);
  nb::gil_scoped_release released;
  spconv_lite::cuda::correlate(op.arithmetic, rows, op.channels, x.data_as<char>(), gradient.data_as<char>(),
                               weight_gradient.data_as<char>(), workspace.data_as<char>(), on.stream());
}

}  // namespace

namespace spconv_lite::bindings {

void bind_cuda(nb::module_& parent) {
  nb::module_ m = parent.def_submodule("cuda");
  nb::class_<Geometry>(m, "Geometry").def(nb::new_(&make_geometry));
  m.def("subm_workspace_bytes", &cuda::subm_workspace_bytes);
  m.def("conv_workspace_bytes", &cuda::conv_workspace_bytes);
  m.def("sort_workspace_bytes", &cuda::sort_workspace_bytes);
  m.def("order_workspace_bytes", &cuda::order_workspace_bytes);
  m.def("subm_neighbours", &subm_neighbours);
  m.def("subm_indice_pairs", &subm_indice_pairs);
  m.def("find_conv_sites", &find_conv_sites);
  m.def("conv_neighbours", &conv_neighbours);
  m.def("conv_indice_pairs", &conv_indice_pairs);
  m.def("turn_neighbours", &turn_neighbours);
  m.def("order_rows", &order_rows);
  m.def("convolve", &convolve, "x"_a, "weight"_a, "bias"_a.none(), "table"_a, "order"_a, "masks"_a, "y"_a,
        "groups"_a, "arithmetic"_a);
  m.def("convolve_back", &convolve_back);
  m.def("correlate_workspace_bytes", &correlate_workspace_bytes);
  m.def("correlate", &correlate);
}

}  // namespace spconv_lite::bindings
