// The loops over a row of pixels that find hollows; the same bits from every instruction set.
#pragma once

#include "core/hollow.h"
#include "native/dispatch.h"

namespace nanite_cull {

// out[x] = from[x] + ... + from[x + window - 1], in the order of core/hollow.h. `from` holds count + window -
// 1 values; `doubled` as many.
NATIVE_DECLARE_ISA(void window_sums(const float* from, int count, int window, float* __restrict doubled,
                                    float* __restrict out))

// distance_of() in perspective, without a branch; `seen`: 1 where something was drawn.
NATIVE_DECLARE_ISA(void perspective_distances(const float* depth, int count, float near_distance, float scale,
                                              float* __restrict line, float* __restrict seen))

// Adds the hollows of a row.
NATIVE_DECLARE_ISA(void add_hollows(const float* distance, const float* sum, const float* count, int width,
                                    const HollowScale& scale, float* __restrict hollow))

// Adds a row, or with a sign of -1 takes it away.
NATIVE_DECLARE_ISA(void add_row(const float* from, int width, float sign, float* __restrict to))

}  // namespace nanite_cull
