// The fused gate kernels on the CPU.
#pragma once

#include "core/gates.h"
#include "native/dispatch.h"

namespace convlstm {

// Throw std::invalid_argument for a pair of activations that has no kernel.
NATIVE_DECLARE_ISA(void gates_forward_float(const ForwardStep<float>&, Activation, Activation, int threads))
NATIVE_DECLARE_ISA(void gates_forward_double(const ForwardStep<double>&, Activation, Activation, int threads))
NATIVE_DECLARE_ISA(void cell_state_float(const CellStep<float>&, int threads))
NATIVE_DECLARE_ISA(void cell_state_double(const CellStep<double>&, int threads))
NATIVE_DECLARE_ISA(void gates_backward_float(const BackwardStep<float>&, Activation, Activation, int threads))
NATIVE_DECLARE_ISA(void gates_backward_double(const BackwardStep<double>&, Activation, Activation,
                                              int threads))

}  // namespace convlstm
