// The CUDA rulebook, launchers and kernels, in the simulator, beside brute force.
#include <cuda/rulebook.cu>

#include "cusim_test.h"
#include "sites.h"

namespace gpu = spconv_lite::cuda;
using cusim::Buffer;
using gpu::Report;
using sim::Expected;
using sim::Kind;
using sim::Pairs;
using spconv_lite::Geometry;

namespace {

struct Result {
  std::vector<int32_t> out_indices, indice_pairs, indice_num;
  Report report;
};

Result run_subm(cusim::Device& device, const std::vector<int32_t>& sites, const Geometry& g) {
  const int64_t rows = static_cast<int64_t>(sites.size()) / (1 + g.ndim), volume = g.volume();
  Buffer<int32_t> indices(sites), pairs(2 * volume * rows), num(volume);
  Buffer<Report> report(1);
  Buffer<char> workspace(gpu::subm_workspace_bytes(g, rows));
  gpu::subm_indice_pairs(indices.data(), rows, g, pairs.data(), num.data(), report.data(), workspace.data(),
                         &device);
  CUSIM_REQUIRE(device.statistics.host_waits == 0);
  return {sites, pairs.host(), num.host(), report.host()[0]};
}

Result run_conv(cusim::Device& device, const std::vector<int32_t>& sites, const Geometry& g,
                bool transposed) {
  const int64_t rows = static_cast<int64_t>(sites.size()) / (1 + g.ndim), volume = g.volume();
  Buffer<int32_t> indices(sites), pairs(2 * volume * rows), num(volume);
  Buffer<Report> report(1);
  Buffer<char> workspace(gpu::conv_workspace_bytes(g, rows, transposed));
  const int64_t out_rows =
      gpu::find_conv_sites(indices.data(), rows, g, transposed, report.data(), workspace.data(), &device)
          .out_rows;
  Buffer<int32_t> out_indices(out_rows * (1 + g.ndim));
  Buffer<char> sort(gpu::sort_workspace_bytes(out_rows));
  gpu::write_conv_indice_pairs(indices.data(), rows, g, transposed, out_rows, out_indices.data(),
                               pairs.data(), num.data(), workspace.data(), sort.data(), &device);
  CUSIM_REQUIRE(device.statistics.host_waits == (rows ? 1 : 0));  // only to learn out_rows
  return {out_indices.host(), pairs.host(), num.host(), report.host()[0]};
}

// The same pairs, in any order within an offset, then -1 to the end.
void require_pairs(const Result& result, const Expected& expected, int64_t rows) {
  const int64_t volume = static_cast<int64_t>(expected.pairs.size());
  CUSIM_REQUIRE(static_cast<int64_t>(result.indice_pairs.size()) == 2 * volume * rows);
  for (int64_t k = 0; k < volume; ++k) {
    const int32_t* in = result.indice_pairs.data() + k * rows;
    const int32_t* out = in + volume * rows;
    const int64_t count = result.indice_num[static_cast<size_t>(k)];
    CUSIM_REQUIRE(count <= rows);
    Pairs pairs;
    for (int64_t p = 0; p < count; ++p) pairs.emplace_back(in[p], out[p]);
    std::sort(pairs.begin(), pairs.end());
    CUSIM_REQUIRE(pairs == expected.pairs[static_cast<size_t>(k)]);
    for (int64_t p = count; p < rows; ++p) CUSIM_REQUIRE(in[p] == -1 && out[p] == -1);
  }
}

void require_equal(const Result& result, const Expected& expected, int64_t rows) {
  CUSIM_REQUIRE(result.out_indices == expected.out_indices);
  require_pairs(result, expected, rows);
  CUSIM_REQUIRE(result.report.outside_row == Report::none);
  CUSIM_REQUIRE(result.report.duplicate_row == Report::none);
  CUSIM_REQUIRE(result.report.unplaced == 0);
}

void compare_random(cusim::Device& device, Kind kind, int ndim, int64_t length, int64_t rows) {
  sim::Random random(device.config.seed * 100 + static_cast<uint64_t>(ndim));
  const Geometry g = sim::random_geometry(random, ndim, kind, length, ndim == 4 ? 2 : 3);
  const std::vector<int32_t> sites = sim::random_sites(random, g, rows);
  const Result result = kind == Kind::submanifold ? run_subm(device, sites, g)
                                                  : run_conv(device, sites, g, kind == Kind::transposed);
  require_equal(result, sim::brute_force(sites, g, kind), static_cast<int64_t>(sites.size()) / (1 + ndim));
}

// A line of 100 cells and a kernel of 3, for cases about particular rows.
Geometry line() {
  Geometry g;
  g.ndim = 1;
  g.in_shape[3] = g.out_shape[3] = 100;
  g.kernel[3] = 3;
  g.padding[3] = 1;
  return g;
}

std::vector<int32_t> on_line(std::initializer_list<int32_t> at) {
  std::vector<int32_t> indices;
  for (int32_t x : at) indices.insert(indices.end(), {0, x});
  return indices;
}

}  // namespace

CUSIM_CASE(subm_in_a_dense_grid_1d) { compare_random(device, Kind::submanifold, 1, 60, 90); }
CUSIM_CASE(subm_in_a_dense_grid_2d) { compare_random(device, Kind::submanifold, 2, 12, 90); }
CUSIM_CASE(subm_in_a_dense_grid_3d) { compare_random(device, Kind::submanifold, 3, 8, 300); }
CUSIM_CASE(subm_in_a_dense_grid_4d) { compare_random(device, Kind::submanifold, 4, 5, 90); }

CUSIM_CASE(subm_by_hash_1d) { compare_random(device, Kind::submanifold, 1, int64_t{1} << 30, 90); }
CUSIM_CASE(subm_by_hash_2d) { compare_random(device, Kind::submanifold, 2, int64_t{1} << 17, 90); }
CUSIM_CASE(subm_by_hash_3d_beyond_32_bits) { compare_random(device, Kind::submanifold, 3, 8192, 300); }
CUSIM_CASE(subm_by_hash_4d_beyond_60_bits) { compare_random(device, Kind::submanifold, 4, 1 << 15, 90); }

CUSIM_CASE(conv_1d) { compare_random(device, Kind::convolution, 1, 60, 60); }
CUSIM_CASE(conv_2d) { compare_random(device, Kind::convolution, 2, 12, 60); }
CUSIM_CASE(conv_3d) { compare_random(device, Kind::convolution, 3, 8, 60); }
CUSIM_CASE(conv_4d) { compare_random(device, Kind::convolution, 4, 5, 60); }
CUSIM_CASE(conv_3d_beyond_32_bits) { compare_random(device, Kind::convolution, 3, 8192, 60); }

CUSIM_CASE(transposed_1d) { compare_random(device, Kind::transposed, 1, 60, 60); }
CUSIM_CASE(transposed_2d) { compare_random(device, Kind::transposed, 2, 12, 60); }
CUSIM_CASE(transposed_3d) { compare_random(device, Kind::transposed, 3, 8, 60); }
CUSIM_CASE(transposed_4d) { compare_random(device, Kind::transposed, 4, 5, 40); }

CUSIM_CASE(no_rows) {
  sim::Random random(1);
  const Geometry subm = sim::random_geometry(random, 3, Kind::submanifold, 8, 3);
  require_equal(run_subm(device, {}, subm), sim::brute_force({}, subm, Kind::submanifold), 0);
  const Geometry conv = sim::random_geometry(random, 3, Kind::convolution, 8, 3);
  require_equal(run_conv(device, {}, conv, false), sim::brute_force({}, conv, Kind::convolution), 0);
}

CUSIM_CASE(one_row) {
  const std::vector<int32_t> sites = on_line({42});
  require_equal(run_subm(device, sites, line()), sim::brute_force(sites, line(), Kind::submanifold), 1);
}

CUSIM_CASE(all_points_vanish_between_the_strides) {
  Geometry g = line();
  g.kernel[3] = 1;
  g.padding[3] = 0;
  g.stride[3] = 2;
  g.out_shape[3] = 50;
  const std::vector<int32_t> sites = on_line({1, 7, 99});
  const Result result = run_conv(device, sites, g, false);
  CUSIM_REQUIRE(result.out_indices.empty());
  require_pairs(result, sim::brute_force(sites, g, Kind::convolution), 3);
}

CUSIM_CASE(the_least_row_outside_the_grid_is_reported_and_left_out) {
  for (const bool strided : {false, true}) {
    const std::vector<int32_t> sites = on_line({5, 6, 100, 7, -1, 8});
    const Result result = strided ? run_conv(device, sites, line(), false) : run_subm(device, sites, line());
    CUSIM_REQUIRE(result.report.outside_row == 2);
    CUSIM_REQUIRE(result.report.duplicate_row == Report::none);
    for (size_t p = 0; p < result.indice_pairs.size() / 2; ++p)
      CUSIM_REQUIRE(result.indice_pairs[p] != 2 && result.indice_pairs[p] != 4);
    CUSIM_REQUIRE((result.indice_num == std::vector<int32_t>{strided ? 4 : 3, 4, strided ? 4 : 3}));
    device.statistics = {};
  }
}

CUSIM_CASE(a_batch_index_beyond_the_batch_size_is_outside) {
  std::vector<int32_t> sites = on_line({5, 6});
  sites[2] = 1;
  CUSIM_REQUIRE(run_subm(device, sites, line()).report.outside_row == 1);
}

CUSIM_CASE(the_second_least_row_of_equal_sites_is_reported_whatever_the_order) {
  for (const int64_t length : {int64_t{100}, int64_t{1} << 30}) {  // a dense grid, a hash table
    Geometry g = line();
    g.in_shape[3] = g.out_shape[3] = length;
    const std::vector<int32_t> sites = on_line({9, 3, 50, 3, 3, 50, 3});
    const Result result = run_subm(device, sites, g);
    CUSIM_REQUIRE(result.report.duplicate_row == 3);
    CUSIM_REQUIRE(run_conv(device, sites, g, false).report.duplicate_row == 3);
    device.statistics = {};
    // The least row answers for its site: the others read it at the centre.
    for (int32_t p = 0; p < result.indice_num[1]; ++p) {
      const int32_t in = result.indice_pairs[static_cast<size_t>(7 + p)];
      CUSIM_REQUIRE(in == 0 || in == 1 || in == 2);
    }
  }
}

CUSIM_CASE(sites_a_large_power_of_two_apart_are_found_within_a_few_probes) {
  CUSIM_REQUIRE(device.queued() == 0);  // nothing of a device in here
  for (int apart = 0; apart < 52; ++apart) {
    const int64_t sites = 3000;
    const uint64_t mask = static_cast<uint64_t>(gpu::slots_for(sites) - 1);
    std::vector<bool> taken(mask + 1, false);
    int64_t probes = 0;
    for (int64_t i = 0; i < sites; ++i) {
      uint64_t slot = gpu::first_slot(i << apart, mask);
      CUSIM_REQUIRE(slot <= mask);
      for (++probes; taken[slot]; ++probes) slot = (slot + 1) & mask;
      taken[slot] = true;
    }
    CUSIM_REQUIRE(probes < 3 * sites);
  }
}

CUSIM_CASE(a_full_hash_table_counts_what_it_cannot_place) {
  Geometry g = line();
  std::vector<int32_t> sites;
  for (int32_t x = 0; x < 100; ++x) sites.insert(sites.end(), {0, x});
  Buffer<int32_t> indices(sites), rows(64, gpu::no_row);
  Buffer<unsigned long long> keys(64, gpu::no_key);
  Buffer<Report> report(std::vector<Report>{{Report::none, Report::none, 0, 0}});
  gpu::SiteMap map;
  map.shape[3] = 100;
  map.keys = keys.data();
  map.rows = rows.data();
  map.hash_mask = 63;
  dev::launch(gpu::prepare_subm_grid, 1, 128, 0, &device, indices.data(), 100, g, map, report.data());
  CUSIM_REQUIRE(report.host()[0].unplaced == 36);
  for (unsigned long long key : keys.host()) CUSIM_REQUIRE(key < 100);
}

CUSIM_CASE(a_grid_of_more_than_63_bits_is_refused) {
  Geometry g;
  g.ndim = 4;
  for (int axis = 0; axis < 4; ++axis) g.in_shape[axis] = g.out_shape[axis] = int64_t{1} << 16;
  try {
    gpu::subm_workspace_bytes(g, 10);
    CUSIM_REQUIRE(!"accepted");
  } catch (const native::ValueError& error) {
    CUSIM_REQUIRE(std::string(error.what()).find("more than 2^63 - 1 cells") != std::string::npos);
  }
}

CUSIM_CASE(rows_beyond_the_mark_of_an_empty_place_are_refused) {
  try {
    gpu::subm_workspace_bytes(line(), gpu::most_rows + 1);
    CUSIM_REQUIRE(!"accepted");
  } catch (const native::ValueError& error) {
    CUSIM_REQUIRE(std::string(error.what()).find("2139062143 input sites are more") != std::string::npos);
  }
}

CUSIM_MAIN
