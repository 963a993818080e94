// How a Python tensor becomes a native::Tensor: through its type's DLPack C exchange table (about
// 0.1 us) where it has one, else through __dlpack__ (numpy, older torch). Bindings include this file,
// kernels never do.
//
// The view is borrowed: it is valid for the call. It sees raw memory: a tensor that requires grad is
// accepted, so the module that uses this stays private (`_C`) behind torch.library.
#pragma once

#include <nanobind/nanobind.h>

#include "check.h"
#include "dlpack.h"
#include "tensor.h"

namespace native {

// The type's exchange table, or null. Looked up once for each type; the GIL is held.
inline const dlpack::ExchangeTable* exchange_table(PyTypeObject* type) {
  static PyTypeObject* last = nullptr;
  static const dlpack::ExchangeTable* table = nullptr;
  if (type == last) return table;
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  void* found = capsule ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : nullptr;
  Py_XDECREF(capsule);
  PyErr_Clear();
  auto* header = static_cast<const dlpack::ExchangeHeader*>(found);
  while (header != nullptr && header->version.major != dlpack::major_version) header = header->previous;
  auto* candidate = reinterpret_cast<const dlpack::ExchangeTable*>(header);
  if (candidate == nullptr || candidate->tensor_from_object == nullptr) return nullptr;
  Py_INCREF(reinterpret_cast<PyObject*>(type));  // a cached key must outlive its type
  last = type;
  return table = candidate;
}

inline bool view_by_table(PyObject* object, Tensor& view) {
  const dlpack::ExchangeTable* table = exchange_table(Py_TYPE(object));
  if (table == nullptr) return false;
  view.has_stream = table->tensor_from_object(object, &view) == 0 &&
                    table->current_work_stream(view.device.type, view.device.id, &view.stream) == 0;
  return view.has_stream;
}

// The capsule stays alive until the call ends, and frees the tensor then: it is never renamed "used".
inline bool view_by_capsule(PyObject* object, Tensor& view, nanobind::detail::cleanup_list* cleanup) {
  if (cleanup == nullptr) return false;
  PyObject* capsule = PyObject_CallMethod(object, "__dlpack__", nullptr);
  if (capsule == nullptr) return false;
  if (void* managed = PyCapsule_GetPointer(capsule, "dltensor")) {
    static_cast<dlpack::Tensor&>(view) = static_cast<dlpack::ManagedTensor*>(managed)->tensor;
    cleanup->append(capsule);
    return true;
  }
  Py_DECREF(capsule);
  return false;
}

// Call once in NB_MODULE: TypeError of check.h becomes Python's TypeError.
inline void register_errors() {
  nanobind::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    }
  });
}

}  // namespace native

template <>
struct nanobind::detail::type_caster<native::Tensor> {
  NB_TYPE_CASTER(native::Tensor, const_name("torch.Tensor"))

  bool from_python(handle src, uint8_t, cleanup_list* cleanup) noexcept {
    if (native::view_by_table(src.ptr(), value)) return true;
    PyErr_Clear();
    if (native::view_by_capsule(src.ptr(), value, cleanup)) return true;
    PyErr_Clear();
    return false;  // nanobind raises TypeError
  }
};
