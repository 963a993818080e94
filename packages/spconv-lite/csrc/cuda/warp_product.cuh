// What one warp multiplies: a 32 x 32 tile of sums += a (32 x depth) @ b (32 x depth).T, both in shared
// memory with rows `depth + pad` elements apart. Products on tensor cores go through CUDA's wmma; the
// simulator's tests bring headers of these names (tests/sim/emulated).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
#include <native/device.h>

namespace spconv_lite::cuda {

inline constexpr int warp_tile = 32;
inline constexpr int stage_pitch = warp_tile + 4;  // of a stored tile: rows begin in different banks

// ---- numbers ----

template <class Sum, class Value>
DEV_FN Sum to_sum(Value value) {
  return static_cast<Sum>(value);
}
template <class Value, class Sum>
DEV_FN Value from_sum(Sum sum) {
  return static_cast<Value>(sum);
}
template <>
DEV_FN float to_sum<float, __half>(__half value) {
  return __half2float(value);
}
template <>
DEV_FN __half from_sum<__half, float>(float sum) {
  return __float2half(sum);
}
template <>
DEV_FN float to_sum<float, __nv_bfloat16>(__nv_bfloat16 value) {
  return __bfloat162float(value);
}
template <>
DEV_FN __nv_bfloat16 from_sum<__nv_bfloat16, float>(float sum) {
  return __float2bfloat16(sum);
}

// ---- products ----

// A lane holds 8 rows by 4 columns, 8 apart: rows of b that 8 lanes read at once begin in different banks.
template <class Value, class Sum, int depth, int pitch>
class ScalarProduct {
 public:
  DEV_FN ScalarProduct() {
    DEV_UNROLL
    for (int i = 0; i < 32; ++i) sum_[i / 4][i % 4] = 0;
  }
  DEV_FN void add(const Value* a, const Value* b) {
    const int row = dev::lane() / 8 * 8, column = dev::lane() % 8;
    DEV_UNROLL_BY(4)
    for (int d = 0; d < depth; ++d) {
      Sum x[8], y[4];
      DEV_UNROLL
      for (int i = 0; i < 8; ++i) x[i] = to_sum<Sum>(a[(row + i) * pitch + d]);
      DEV_UNROLL
      for (int j = 0; j < 4; ++j) y[j] = to_sum<Sum>(b[(column + 8 * j) * pitch + d]);
      DEV_UNROLL
      for (int i = 0; i < 32; ++i) sum_[i / 4][i % 4] += x[i / 4] * y[i % 4];
    }
  }
  // stage: 32 rows of stage_pitch.
  DEV_FN void store(Sum* stage) const {
    const int row = dev::lane() / 8 * 8, column = dev::lane() % 8;
    DEV_UNROLL
    for (int i = 0; i < 32; ++i) stage[(row + i / 4) * stage_pitch + column + i % 4 * 8] = sum_[i / 4][i % 4];
  }

 private:
  Sum sum_[8][4];
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// tf32 keeps 10 bits of a float's mantissa: round, do not cut.
template <class Fragment>
DEV_FN void round_to_tf32(Fragment& fragment) {
  DEV_UNROLL
  for (int e = 0; e < fragment.num_elements; ++e)
    fragment.x[e] = nvcuda::wmma::__float_to_tf32(fragment.x[e]);
}
#endif

// Value as shared memory holds it, Element as wmma names it; 16 x 16 fragments of `step` along the depth.
template <class Value, class Element, int step, int depth, int pitch>
class TensorProduct {
 public:
  DEV_FN TensorProduct() {
    DEV_UNROLL
    for (int f = 0; f < 4; ++f) nvcuda::wmma::fill_fragment(sum_[f], 0.0f);
  }
  DEV_FN void add(const Value* a, const Value* b) {
    namespace wmma = nvcuda::wmma;
    DEV_UNROLL_BY(step == 8 ? 1 : depth / step)  // unrolled, tf32 spills on sm_120
    for (int d = 0; d < depth; d += step) {
      wmma::fragment<wmma::matrix_a, 16, 16, step, Element, wmma::row_major> x[2];
      wmma::fragment<wmma::matrix_b, 16, 16, step, Element, wmma::col_major> y[2];
      DEV_UNROLL
      for (int i = 0; i < 2; ++i) {
        wmma::load_matrix_sync(x[i], a + i * 16 * pitch + d, pitch);
        wmma::load_matrix_sync(y[i], b + i * 16 * pitch + d, pitch);
        if constexpr (step == 8) {
          round_to_tf32(x[i]);
          round_to_tf32(y[i]);
        }
      }
      DEV_UNROLL
      for (int f = 0; f < 4; ++f) wmma::mma_sync(sum_[f], x[f / 2], y[f % 2], sum_[f]);
    }
  }
  DEV_FN void store(float* stage) const {
    DEV_UNROLL
    for (int f = 0; f < 4; ++f)
      nvcuda::wmma::store_matrix_sync(stage + f / 2 * 16 * stage_pitch + f % 2 * 16, sum_[f], stage_pitch,
                                      nvcuda::wmma::mem_row_major);
  }

 private:
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, step, float> sum_[4];
};

// ---- kinds of arithmetic: the type in memory, the type of sums, the depth of a step ----

struct Float32 {
  using Value = float;
  using Sum = float;
  static constexpr int depth = 16, pad = 4;
  template <int pitch>
  using Product = ScalarProduct<Value, Sum, depth, pitch>;
};

struct Float64 {
  using Value = double;
  using Sum = double;
  static constexpr int depth = 8, pad = 2;
  template <int pitch>
  using Product = ScalarProduct<Value, Sum, depth, pitch>;
};

struct Float16 {
  using Value = __half;
  using Sum = float;
  static constexpr int depth = 32, pad = 8;
  template <int pitch>
  using Product = TensorProduct<Value, __half, 16, depth, pitch>;
};

// Tensor cores take bfloat16 and tf32 from sm_80 on; older devices compute with scalars in float32.
struct BFloat16 {
  using Value = __nv_bfloat16;
  using Sum = float;
  static constexpr int depth = 32, pad = 8;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  template <int pitch>
  using Product = TensorProduct<Value, __nv_bfloat16, 16, depth, pitch>;
#else
  template <int pitch>
  using Product = ScalarProduct<Value, Sum, depth, pitch>;
#endif
};

struct TensorFloat32 {
  using Value = float;
  using Sum = float;
  static constexpr int depth = 16, pad = 4;
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  template <int pitch>
  using Product = TensorProduct<Value, nvcuda::wmma::precision::tf32, 8, depth, pitch>;
#else
  template <int pitch>
  using Product = ScalarProduct<Value, Sum, depth, pitch>;
#endif
};

}  // namespace spconv_lite::cuda
