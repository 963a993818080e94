// What the convolutions of one instruction set share: register blocks. Included by SIMD sources alone;
// everything has internal linkage in each of them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#define CONVLSTM_INLINE inline __attribute__((always_inline))
#define CONVLSTM_NOINLINE __attribute__((noinline))
#define CONVLSTM_INLINE_LAMBDA __attribute__((always_inline))

namespace convlstm::NATIVE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16, tile_rows = 12;
#elif defined(__AVX2__)
constexpr int lanes = 8, tile_rows = 6;
#else
constexpr int lanes = 4, tile_rows = 6;
#endif
constexpr int few_rows = tile_rows / 3;  // of a small register block, for what is left
constexpr int columns = 2 * lanes;       // output channels of one register block

typedef float Vector __attribute__((vector_size(lanes * sizeof(float)), aligned(4)));

inline Vector& at(float* p) { return *reinterpret_cast<Vector*>(p); }
inline const Vector& at(const float* p) { return *reinterpret_cast<const Vector*>(p); }

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Memory that grows and is used again; its contents are not kept when it grows. (std::vector's functions
// are weak symbols, of which a linker keeps one: another instruction set's, perhaps.)
template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }

  void grow(int64_t size) {
    if (size <= size_) return;
    std::free(data_);
    size_ = 0;
    data_ = static_cast<T*>(std::aligned_alloc(64, round_up(size * sizeof(T), 64)));
    if (data_ == nullptr) throw std::bad_alloc();
    size_ = size;
  }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

// products (Rows, columns) = inputs (Rows, channels) * weights (channels, columns), of which the first
// Vectors x lanes columns are wanted; added to what is there where Add. Rows of the inputs lie `stride`
// apart.
template <int Vectors, int Rows, bool Add = false>
void multiply(const float* inputs, int64_t stride, int64_t channels, const float* weights, float* products) {
  Vector a[Rows], b[Rows];
  for (int r = 0; r < Rows; ++r) a[r] = Vector{}, b[r] = Vector{};
  for (int64_t c = 0; c < channels; ++c, weights += columns) {
    const Vector low = at(weights), high = at(weights + lanes);
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) {
      const float x = inputs[r * stride + c];
      a[r] += x * low;
      if constexpr (Vectors == 2) b[r] += x * high;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    float* to = products + r * columns;
    at(to) = Add ? at(to) + a[r] : a[r];
    if constexpr (Vectors == 2) at(to + lanes) = Add ? at(to + lanes) + b[r] : b[r];
  }
}

}  // namespace
}  // namespace convlstm::NATIVE_ISA
