// The entry points of cuda/gates.h.
#include "cuda/gates.cuh"

namespace convlstm::cuda {

void gates_forward(const ForwardStep<float>& step, Activation activation, Activation recurrent,
                   void* stream) {
  dispatch(step, activation, recurrent, dev::stream_from(stream));
}

void gates_backward(const BackwardStep<float>& step, Activation activation, Activation recurrent,
                    void* stream) {
  dispatch(step, activation, recurrent, dev::stream_from(stream));
}

}  // namespace convlstm::cuda
