// Arrays between Python and the core: what is asked for, what is given, views and owners.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "native/check.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace nanite_cull {

template <class T, class... Shape>
using Array = nb::ndarray<const T, nb::c_contig, nb::device::cpu, Shape...>;
template <class T>
using Out = nb::ndarray<nb::numpy, T>;

template <class T>
const T* data_or_null(const std::optional<nb::ndarray<const T, nb::c_contig, nb::device::cpu>>& array) {
  return array ? array->data() : nullptr;
}

// Throws native::ValueError unless an array, which `name` says what it is of, has these extents.
template <class A>
void check_extents(const char* name, const A& array, const std::vector<size_t>& wanted) {
  bool same = array.ndim() == wanted.size();
  for (size_t i = 0; same && i < wanted.size(); ++i) same = array.shape(i) == wanted[i];
  native::demand(same, [&] {
    std::string want, got;
    for (const size_t extent : wanted) want += (want.empty() ? "" : ", ") + std::to_string(extent);
    for (size_t i = 0; i < array.ndim(); ++i) got += (i == 0 ? "" : ", ") + std::to_string(array.shape(i));
    return std::string(name) + " must have shape (" + want + "), got (" + got + ")";
  });
}

// A read-only view of a vector that `owner` keeps alive.
template <class T>
Out<const T> view_of(const std::vector<T>& values, std::vector<size_t> shape, nb::handle owner) {
  return Out<const T>(values.data(), shape.size(), shape.data(), owner);
}

// One member of an array of structs, as a strided view.
template <class T, class S>
Out<const T> member_of(const std::vector<S>& records, const T* first, nb::handle owner) {
  const size_t shape[1] = {records.size()};
  const int64_t strides[1] = {sizeof(S) / sizeof(T)};
  return Out<const T>(records.empty() ? nullptr : first, 1, shape, owner, strides);
}

// A numpy array that owns its memory.
template <class T>
nb::ndarray<nb::numpy, T> owned(T* data, std::initializer_list<size_t> shape) {
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(data, shape, owner);
}

}  // namespace nanite_cull
