// The fused gate kernels on CUDA, launched on the stream they are given; they do not synchronise.
#pragma once

#include "core/gates.h"

namespace convlstm::cuda {

// float only. Throw std::invalid_argument for a pair of activations that has no kernel, and
// std::runtime_error when a launch is refused.
void gates_forward(const ForwardStep<float>& step, Activation activation, Activation recurrent, void* stream);
void gates_backward(const BackwardStep<float>& step, Activation activation, Activation recurrent,
                    void* stream);

}  // namespace convlstm::cuda
