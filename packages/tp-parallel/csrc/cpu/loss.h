// The cross-entropy kernels on the CPU. Narrow types (bfloat16 as its bits) are summed in float.
#pragma once

#include "core/bfloat16.h"
#include "core/loss.h"
#include "native/dispatch.h"

namespace tp_parallel {

// out [rows, 4]: see Statistic. with_sum: fill `sum`, else it is zero.
NATIVE_DECLARE_ISA(void statistics_float(const float*, const LossShape&, bool with_sum, float* out,
                                         int threads))
NATIVE_DECLARE_ISA(void statistics_bfloat16(const BFloat16*, const LossShape&, bool with_sum, float* out,
                                            int threads))
NATIVE_DECLARE_ISA(void statistics_double(const double*, const LossShape&, bool with_sum, double* out,
                                          int threads))

// out [rows, columns], which may be `logits` itself; lse, grad [rows].
NATIVE_DECLARE_ISA(void gradient_float(const float*, const LossShape&, const LossGradient&, const float* lse,
                                       const float* grad, float* out, int threads))
NATIVE_DECLARE_ISA(void gradient_bfloat16(const BFloat16*, const LossShape&, const LossGradient&,
                                          const float* lse, const float* grad, BFloat16* out, int threads))
NATIVE_DECLARE_ISA(void gradient_double(const double*, const LossShape&, const LossGradient&,
                                        const double* lse, const double* grad, double* out, int threads))

}  // namespace tp_parallel
