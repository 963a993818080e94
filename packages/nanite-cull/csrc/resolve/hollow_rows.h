// The loops over a row of pixels that find hollows; the same bits from every instruction set.
#pragma once

#include "native/dispatch.h"

namespace nanite_cull {

// out[x] = from[x] + ... + from[x + window - 1], by sums of powers of two; nothing is subtracted, so that a
// far pixel leaves no rounding behind. `from` holds count + window - 1 values; `doubled` as many.
NATIVE_DECLARE_ISA(void window_sums(const float* from, int count, int window, float* __restrict doubled,
                                    float* __restrict out))

// As along_axis in units of the world, without a branch; `seen`: 1 where something was drawn.
NATIVE_DECLARE_ISA(void perspective_distances(const float* depth, int count, float near_distance, float scale,
                                              float* __restrict line, float* __restrict seen))

// Adds how much further each pixel lies than the mean of its square, in units of steady + distance * growing.
NATIVE_DECLARE_ISA(void add_hollows(const float* distance, const double* sum, const float* count, int width,
                                    double steady, double growing, float* __restrict hollow))

// Adds a row, or with a sign of -1 takes it away.
NATIVE_DECLARE_ISA(void add_row(const float* sums, const float* counts, int width, float sign,
                                double* __restrict sum, float* __restrict count))

}  // namespace nanite_cull
