// Convolution of bfloat16 features by AVX512-BF16: products of pairs of channels, summed in float32, one
// rounding at the end. The counterpart of tiles.h; only for processors with those instructions, and even
// numbers of channels.
#pragma once

#include <cstdint>

#include <cpu/tiles.h>

namespace spconv_lite {

namespace narrow {

// Whether this build and this processor have the instructions (and NATIVE_ISA does not forbid them).
bool available();

bool compiled();  // whether the build has them

// packed[x / 2][y][x % 2] = raw[x * x_step + y * y_step], y up to padded(columns), zeros beyond `columns`.
void pack_panel(const Bfloat16* raw, int64_t x_channels, int64_t x_step, int64_t columns, int64_t y_step,
                Bfloat16* packed);

// As convolve_panel in tiles.h, with ends and sums in float32.
bool convolve_panel(const BlockMap& map, int64_t blocks, const Features<Bfloat16>& f,
                    const PanelWeights<Bfloat16>& weights, const Ends<float>& ends, Bfloat16* panel,
                    float* sums);

// As correlate_blocks in tiles.h; `rows` is scratch of (correlated_rows, x_channels + padded(y_channels)).
bool correlate_blocks(const BlockMap& map, int64_t blocks, int64_t k, bool turned,
                      const Features<const Bfloat16>& f, Bfloat16* rows, PairSums<float>* to);

void round_to(const float* from, int64_t count, Bfloat16* to);  // to nearest, ties to even

}  // namespace narrow
}  // namespace spconv_lite
