// The part of the DLPack 1.x ABI that a borrowed view needs, declared here so that the kernels depend
// on no package. Layouts: the DLPack specification, version 1.3 (the exchange table came with 1.2).
#pragma once

#include <cstdint>

namespace native::dlpack {

constexpr uint32_t major_version = 1;

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct Device {
  int32_t type;  // DeviceType below
  int32_t id;
};

struct DataType {
  uint8_t code;  // TypeCode below
  uint8_t bits;
  uint16_t lanes;
};

enum DeviceType : int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };
enum TypeCode : uint8_t { int_code = 0, uint_code = 1, float_code = 2, bfloat_code = 4, bool_code = 6 };

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means C-contiguous
  uint64_t byte_offset;
};

struct ManagedTensor {
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor*);
};

struct ManagedTensorVersioned {
  Version version;
  void* manager_context;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  Tensor tensor;
};

struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};

// Found as the capsule "dlpack_exchange_api" on a tensor's type, attribute __dlpack_c_exchange_api__.
struct ExchangeTable {
  ExchangeHeader header;
  int (*allocate)(Tensor* prototype, ManagedTensorVersioned** out, void* error_context,
                  void (*set_error)(void*, const char*, const char*));
  int (*managed_from_object)(void* object, ManagedTensorVersioned** out);
  int (*managed_to_object)(ManagedTensorVersioned* tensor, void** object);
  int (*tensor_from_object)(void* object, Tensor* out);  // borrowed; may be null
  int (*current_work_stream)(int32_t device_type, int32_t device_id, void** stream);
};

}  // namespace native::dlpack
