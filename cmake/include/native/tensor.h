// A borrowed view of a strided tensor: what a binding hands to a kernel. It owns nothing and is valid
// for the call that received it.
#pragma once

#include <cstdint>
#include <string>

#include "dlpack.h"

namespace native {

using DType = dlpack::DataType;

inline constexpr DType int32{dlpack::int_code, 32, 1};
inline constexpr DType int64{dlpack::int_code, 64, 1};
inline constexpr DType uint8{dlpack::uint_code, 8, 1};
inline constexpr DType uint32{dlpack::uint_code, 32, 1};
inline constexpr DType uint64{dlpack::uint_code, 64, 1};
inline constexpr DType float16{dlpack::float_code, 16, 1};
inline constexpr DType float32{dlpack::float_code, 32, 1};
inline constexpr DType float64{dlpack::float_code, 64, 1};
inline constexpr DType bfloat16{dlpack::bfloat_code, 16, 1};
inline constexpr DType boolean{dlpack::bool_code, 8, 1};

inline bool operator==(DType a, DType b) {
  return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes;
}
inline bool operator!=(DType a, DType b) { return !(a == b); }

// "float32", "int64", "bool"; a type without a name here reads as its code and width.
inline std::string name(DType dtype) {
  std::string bits = std::to_string(dtype.bits);
  std::string lanes = dtype.lanes == 1 ? "" : "x" + std::to_string(dtype.lanes);
  switch (dtype.code) {
    case dlpack::int_code: return "int" + bits + lanes;
    case dlpack::uint_code: return "uint" + bits + lanes;
    case dlpack::float_code: return "float" + bits + lanes;
    case dlpack::bfloat_code: return "bfloat" + bits + lanes;
    case dlpack::bool_code: return "bool" + lanes;
    default: return "type" + std::to_string(dtype.code) + "_" + bits + lanes;
  }
}

struct Tensor : dlpack::Tensor {
  void* stream = nullptr;   // the producer's current stream on this device; null on the CPU
  bool has_stream = false;  // whether the producer said which it is: null is a stream too

  int64_t size(int axis) const { return shape[axis]; }

  int64_t numel() const {
    int64_t count = 1;
    for (int axis = 0; axis < ndim; ++axis) count *= shape[axis];
    return count;
  }

  bool is_cpu() const { return device.type == dlpack::cpu; }
  bool is_cuda() const { return device.type == dlpack::cuda; }

  // C order; axes of length 1 may have any stride, and an empty tensor is contiguous.
  bool is_contiguous() const {
    if (strides == nullptr || numel() == 0) return true;
    int64_t expected = 1;
    for (int axis = ndim - 1; axis >= 0; --axis) {
      if (shape[axis] != 1 && strides[axis] != expected) return false;
      expected *= shape[axis];
    }
    return true;
  }

  // The first element; null for an empty tensor.
  template <class T>
  T* data_as() const {
    return reinterpret_cast<T*>(static_cast<char*>(data) + byte_offset);
  }
};

}  // namespace native
