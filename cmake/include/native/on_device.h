// One call on CUDA: its tensors are on one device, which is the current one while this lives, and its work
// goes to torch's current stream there.
//
//   const native::OnDevice on("gates_forward", c, pre, bias);   // tensors, or std::optional of them
//   cuda::gates_forward(step, on.stream());
//
// Does nothing for tensors on the CPU. Throws TypeError for tensors on two devices, MachineError where
// torch does not say its stream (it has no DLPack exchange table): on another stream a kernel would race
// with torch's.
#pragma once

#include <optional>
#include <string>

#include "check.h"
#include "tensor.h"

#if defined(WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace native {

struct CudaDevices {
#if defined(WITH_CUDA)
  static void must(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw MachineError(std::string(what) + ": " + cudaGetErrorString(status));
  }
  static int current() {
    int device = 0;
    must(cudaGetDevice(&device), "cudaGetDevice");
    return device;
  }
  static void use(int device) { must(cudaSetDevice(device), "cudaSetDevice"); }
#else
  static int current() { return 0; }
  static void use(int) {}
#endif
};

namespace detail {

inline void require_beside(const char* function, const Tensor& first, const Tensor& other) {
  if (other.device.type != first.device.type || other.device.id != first.device.id)
    throw TypeError(std::string(function) + ": the tensors must be on one device, got " + device_name(first) +
                    " and " + device_name(other));
}
inline void require_beside(const char* function, const Tensor& first, const std::optional<Tensor>& other) {
  if (other) require_beside(function, first, *other);
}

}  // namespace detail

// Throws TypeError unless all tensors, or std::optional of them, are on one device.
template <class... Rest>
void require_one_device([[maybe_unused]] const char* function, const Tensor& first, const Rest&... rest) {
  (detail::require_beside(function, first, rest), ...);
}

template <class Devices>
class BasicOnDevice {
 public:
  template <class... Rest>
  BasicOnDevice(const char* function, const Tensor& first, const Rest&... rest) {
    require_one_device(function, first, rest...);
    if (!first.is_cuda()) return;
    if (!first.has_stream)
      throw MachineError(std::string(function) +
                         ": this torch does not name its current stream (no DLPack exchange table), and on "
                         "another one the CUDA kernels would race with it; install a newer torch, or choose "
                         "plain torch operators");
    stream_ = first.stream;
    const int current = Devices::current();
    if (current == first.device.id) return;
    Devices::use(first.device.id);
    before_ = current;
  }
  ~BasicOnDevice() {
    if (before_ < 0) return;
    try {
      Devices::use(before_);
    } catch (const MachineError&) {  // the device was in use before: only a lost driver refuses it
    }
  }
  BasicOnDevice(const BasicOnDevice&) = delete;
  BasicOnDevice& operator=(const BasicOnDevice&) = delete;

  void* stream() const { return stream_; }

 private:
  void* stream_ = nullptr;
  int before_ = -1;
};

using OnDevice = BasicOnDevice<CudaDevices>;

}  // namespace native
