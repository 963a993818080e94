// What the bindings of the CPU kernels share: the map of a rulebook, and a call by dtype without the GIL.
#pragma once

#include <string>

#include <bindings/shared.h>
#include <cpu/conv.h>
#include <cpu/pairs.h>
#include <nanobind/nanobind.h>
#include <native/caster.h>

namespace spconv_lite::bindings {

using native::operator==;  // the types live in native::dlpack

inline constexpr auto cpu = native::dlpack::cpu;

inline Map make_map(const char* function, const native::Tensor& pair_in, const native::Tensor& pair_out,
                    const native::Tensor& block_offset, int64_t in_rows, int64_t out_rows, int64_t volume) {
  using native::require;
  native::Dim pairs("P");
  const int64_t blocks = (out_rows + block_rows - 1) / block_rows;
  const bool flat = pair_in.ndim == 1 && pair_out.ndim == 1 && out_rows > 0;
  const bool ordered = flat && pair_in.shape[0] == pair_out.shape[0] + out_rows;
  if (ordered)
    require(pair_in, function, "pair_in", cpu, native::int32, pair_in.shape[0]);
  else
    require(pair_in, function, "pair_in", cpu, native::int32, pairs);
  require(pair_out, function, "pair_out", cpu, native::uint8, pairs);
  require(block_offset, function, "block_offset", cpu, native::int64, blocks * volume + 1);
  return {pair_in.data_as<int32_t>(),
          pair_out.data_as<uint8_t>(),
          block_offset.data_as<int64_t>(),
          pairs.length(),
          in_rows,
          out_rows,
          volume,
          ordered ? pair_in.data_as<int32_t>() + pairs.length() : nullptr};
}

inline native::DType float_or_double(const native::Tensor& x) {
  return x.dtype == native::float64 ? native::float64 : native::float32;
}

template <class Run>
void by_wide_dtype(native::DType dtype, Run&& run) {
  nanobind::gil_scoped_release released;
  if (dtype == native::float64)
    run(double{});
  else
    run(float{});
}

}  // namespace spconv_lite::bindings
