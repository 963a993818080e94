// What lies between the matrix products of a layer, on the CPU. Narrow types (bfloat16 as its bits) are
// computed in float. Everything is row-major and dense.
#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "native/dispatch.h"

namespace tp_parallel {

// [rows, features]; the weight is `weight + shift`.
struct NormShape {
  int64_t rows, features;
  double eps, shift;
};

// [rows, 2 * inner], the gate first.
struct GateShape {
  int64_t rows, inner;
  bool gelu;  // the tanh form of GELU, else SiLU
};

// qkv [tokens, groups, queries + 2, width]: a group's queries, key and value. The first 2 * half values of a
// query's or key's head are turned by `table` [2, places, half], cosines, then sines; token t stands at
// place t % places.
struct HeadShape {
  int64_t tokens, groups, queries, width, half, places;
};

// Of T = float, BFloat16 and double.
template <class T>
using Wide = decltype(widen(T()));

// scale [rows]: what each row was multiplied by, which the gradient asks for.
NATIVE_DECLARE_ISA(template <class T> void rms_norm(const T* x, const T* weight, const NormShape&, T* out,
                                                    Wide<T>* scale, int threads))
NATIVE_DECLARE_ISA(template <class T>
                   void rms_norm_gradient(const T* x, const T* weight, const Wide<T>* scale, const T* grad,
                                          const NormShape&, T* out, T* weight_out, int threads))

NATIVE_DECLARE_ISA(template <class T> void gate(const T* x, const GateShape&, T* out, int threads))
NATIVE_DECLARE_ISA(template <class T>
                   void gate_gradient(const T* x, const T* grad, const GateShape&, T* out, int threads))

// q [tokens, groups, queries, width]; k, v [tokens, groups, width].
NATIVE_DECLARE_ISA(template <class T> void split_heads(const T* qkv, const T* table, const HeadShape&, T* q,
                                                       T* k, T* v, int threads))
// The gradient of split_heads: turns back.
NATIVE_DECLARE_ISA(template <class T> void join_heads(const T* q, const T* k, const T* v, const T* table,
                                                      const HeadShape&, T* qkv, int threads))

}  // namespace tp_parallel
