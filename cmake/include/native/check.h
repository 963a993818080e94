// Checks at the door. Every message has one form: function, argument, demand, fact, cure:
//   submconv3d: indices must be contiguous int32 of shape (N, 4) on cpu, got int64 (1000, 3) on cpu
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "tensor.h"

namespace native {

// A wrong value: ValueError in Python (nanobind maps std::invalid_argument to it).
struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// A wrong kind of thing (dtype, device): TypeError in Python, by the translator in caster.h.
struct TypeError : std::logic_error {
  using std::logic_error::logic_error;
};

// What the machine lacks or failed to do: RuntimeError in Python.
struct MachineError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One axis of a demanded shape: a number, or a letter that is bound by its first use.
//   Dim n("N");
//   require(indices, "f", "indices", dlpack::cpu, int32, n, 4);
//   require(rows, "f", "rows", dlpack::cpu, int32, n);   // the same N
class Dim {
 public:
  Dim(int64_t length) : length_(length) {}  // NOLINT: a literal in a shape reads best bare
  explicit Dim(const char* letter) : letter_(letter) {}

  int64_t length() const { return length_; }
  bool matches(int64_t actual) const { return length_ < 0 || length_ == actual; }
  void bind(int64_t actual) {
    if (length_ < 0) length_ = actual;
  }
  std::string text() const {
    if (letter_ == nullptr) return std::to_string(length_);
    return length_ < 0 ? letter_ : std::string(letter_) + "=" + std::to_string(length_);
  }

 private:
  int64_t length_ = -1;
  const char* letter_ = nullptr;
};

inline std::string device_name(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  if (t.is_cuda()) return "cuda:" + std::to_string(t.device.id);
  return "device type " + std::to_string(t.device.type);
}

inline std::string shape_text(const Tensor& t) {
  std::string text = "(";
  for (int axis = 0; axis < t.ndim; ++axis) text += (axis ? ", " : "") + std::to_string(t.shape[axis]);
  return text + (t.ndim == 1 ? ",)" : ")");
}

namespace detail {

inline std::string demand(const char* function, const char* argument, DType dtype,
                          std::initializer_list<Dim*> shape, const char* device) {
  std::string text =
      std::string(function) + ": " + argument + " must be contiguous " + name(dtype) + " of shape (";
  size_t axis = 0;
  for (const Dim* dim : shape) text += (axis++ ? ", " : "") + dim->text();
  return text + (shape.size() == 1 ? ",)" : ")") + " on " + device;
}

inline std::string fact(const Tensor& t) {
  std::string strided = t.is_contiguous() ? "" : "non-contiguous ";
  return ", got " + strided + name(t.dtype) + " " + shape_text(t) + " on " + device_name(t);
}

}  // namespace detail

inline void require_shape(const Tensor& t, const char* function, const char* argument, int32_t device,
                          DType dtype, std::initializer_list<Dim*> shape) {
  const char* place = device == dlpack::cpu ? "cpu" : "cuda";
  auto message = [&] { return detail::demand(function, argument, dtype, shape, place) + detail::fact(t); };
  if (t.dtype != dtype || t.device.type != device) throw TypeError(message());
  bool fits = t.ndim == static_cast<int32_t>(shape.size()) && t.is_contiguous();
  int axis = 0;
  for (const Dim* dim : shape) fits = fits && dim->matches(t.shape[axis++]);
  if (!fits) throw ValueError(message());
  axis = 0;
  for (Dim* dim : shape) dim->bind(t.shape[axis++]);
}

// Throws TypeError for a wrong dtype or device, ValueError for a wrong shape or layout; binds the
// letters of the shape. `device` is dlpack::cpu or dlpack::cuda; `dims` are Dim lvalues or integers.
template <class... Dims>
void require(const Tensor& t, const char* function, const char* argument, int32_t device, DType dtype,
             Dims&&... dims) {
  auto as_dim = [](auto&& dim) -> decltype(auto) {
    if constexpr (std::is_same_v<std::decay_t<decltype(dim)>, Dim>)
      return (dim);
    else
      return Dim(static_cast<int64_t>(dim));
  };
  auto check = [&](auto&&... bound) { require_shape(t, function, argument, device, dtype, {&bound...}); };
  check(as_dim(dims)...);
}

// Throws ValueError(message) unless `holds`. The message is built only on failure.
template <class Message>
void demand(bool holds, Message&& message) {
  if (!holds) throw ValueError(message());
}

}  // namespace native
