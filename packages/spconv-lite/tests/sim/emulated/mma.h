// CUDA's wmma for the simulator: 16 x 16 sums. A lane holds all of both factors and, of the sums, the
// elements lane, lane + 32, ...; CUDA leaves that layout open, and the kernels do not rely on it. mma_sync
// demands all lanes and orders no memory, so that a missing barrier around shared memory stays a race.
// Pointers and pitches are held to what CUDA demands of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <native/device.h>

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major };

namespace precision {
struct tf32;
}

inline float to_float(float value) { return value; }
inline float to_float(__half value) { return __half2float(value); }
inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class Use, int m, int n, int k, class T, class Layout = void>
struct fragment {
  static_assert(m == 16 && n == 16, "the shape that the kernels use");
  static constexpr bool is_sum = std::is_same_v<Use, accumulator>;
  static constexpr int num_elements = is_sum ? 8 : 16 * k;
  std::conditional_t<std::is_same_v<T, precision::tf32>, float, T> x[num_elements];
};

inline float __float_to_tf32(float value) {  // to nearest, ties away from zero, as cvt.rna does
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = (bits + 0x1000) & ~uint32_t{0x1fff};
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

template <int k, class T>
void fill_fragment(fragment<accumulator, 16, 16, k, T>& f, float value) {
  for (float& x : f.x) x = value;
}

// 32-byte aligned tiles, rows a multiple of 16 bytes apart.
template <class T>
void require_tile(const T* at, unsigned pitch) {
  DEV_ASSERT(reinterpret_cast<uintptr_t>(at) % 32 == 0);
  DEV_ASSERT(pitch * sizeof(T) % 16 == 0);
}

// Both factors as 16 rows of k: a row of a is stored along its row, one of b (16 columns) along its column.
template <class Use, int k, class T, class Layout, class Value>
void load_matrix_sync(fragment<Use, 16, 16, k, T, Layout>& f, const Value* from, unsigned pitch) {
  static_assert(std::is_same_v<Use, matrix_a> == std::is_same_v<Layout, row_major>,
                "as the kernels use them");
  require_tile(from, pitch);
  for (int i = 0; i < 16; ++i)
    for (int d = 0; d < k; ++d) f.x[i * k + d] = from[i * pitch + static_cast<unsigned>(d)];
}

template <int k, class T, class A, class B>
void mma_sync(fragment<accumulator, 16, 16, k, float>& sum, const fragment<matrix_a, 16, 16, k, T, A>& a,
              const fragment<matrix_b, 16, 16, k, T, B>& b,
              const fragment<accumulator, 16, 16, k, float>& before) {
  (void)__ballot_sync(dev::all_lanes, 1);
  for (int e = 0; e < 8; ++e) {
    const int at = dev::lane() + 32 * e;
    float value = before.x[e];
    for (int d = 0; d < k; ++d) value += to_float(a.x[at / 16 * k + d]) * to_float(b.x[at % 16 * k + d]);
    sum.x[e] = value;
  }
}

template <int k>
void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, k, float>& f, unsigned pitch,
                       layout_t) {
  require_tile(to, pitch);
  for (int e = 0; e < 8; ++e) {
    const unsigned at = static_cast<unsigned>(dev::lane() + 32 * e);
    to[at / 16 * pitch + at % 16] = f.x[e];
  }
}

}  // namespace nvcuda::wmma
