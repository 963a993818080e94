// The cross-entropy kernels on CUDA, launched on the stream they are given; they do not synchronise.
#pragma once

#include "core/bfloat16.h"
#include "core/loss.h"

namespace tp_parallel::cuda {

// As in cpu/loss.h. Throw std::runtime_error when a launch is refused.
void statistics(const float* logits, const LossShape& shape, bool with_sum, float* out, void* stream);
void statistics(const BFloat16* logits, const LossShape& shape, bool with_sum, float* out, void* stream);
void gradient(const float* logits, const LossShape& shape, const LossGradient& terms, const float* lse,
              const float* grad, float* out, void* stream);
void gradient(const BFloat16* logits, const LossShape& shape, const LossGradient& terms, const float* lse,
              const float* grad, BFloat16* out, void* stream);

}  // namespace tp_parallel::cuda
