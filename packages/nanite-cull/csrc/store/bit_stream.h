// Bits in and out, and Rice codes for small signed numbers (Rice and Plaunt, 1971).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nanite_cull {

constexpr int rice_escape = 24;  // this many ones announce a number in full
constexpr int full_bits = 34;    // enough for a difference of two 32-bit numbers, folded

// 0, -1, 1, -2, ... to 0, 1, 2, 3, ...
inline uint64_t fold(int64_t x) { return (static_cast<uint64_t>(x) << 1) ^ static_cast<uint64_t>(x >> 63); }
inline int64_t unfold(uint64_t x) { return static_cast<int64_t>(x >> 1) ^ -static_cast<int64_t>(x & 1); }

class BitWriter {
 public:
  void bits(uint64_t value, int count) {
    for (int i = 0; i < count; ++i) {
      if (used_ == 0) bytes.push_back(0);
      bytes.back() = static_cast<uint8_t>(bytes.back() | (value >> i & 1) << used_);
      used_ = (used_ + 1) & 7;
    }
  }
  void rice(uint64_t value, int k) {
    const uint64_t quotient = value >> k;
    if (quotient >= rice_escape) {
      bits((uint64_t(1) << rice_escape) - 1, rice_escape);
      bits(value, full_bits);
      return;
    }
    bits((uint64_t(1) << quotient) - 1, static_cast<int>(quotient) + 1);
    bits(value, k);
  }
  std::vector<uint8_t> bytes;

 private:
  int used_ = 0;
};

// Reads within [data, data + size); past the end it gives zeros and remembers that.
class BitReader {
 public:
  BitReader(const uint8_t* data, size_t size) : data_(data), size_(size * 8) {}
  uint64_t bits(int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; ++i) value |= static_cast<uint64_t>(bit()) << i;
    return value;
  }
  uint64_t rice(int k) {
    int quotient = 0;
    while (quotient < rice_escape && bit()) ++quotient;
    if (quotient == rice_escape) return bits(full_bits);
    return static_cast<uint64_t>(quotient) << k | bits(k);
  }
  bool past_end() const { return at_ > size_; }

 private:
  int bit() {
    const size_t at = at_++;
    return at < size_ ? data_[at >> 3] >> (at & 7) & 1 : 0;
  }
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

// The bits that codes of these numbers take with parameter k.
inline uint64_t rice_cost(const std::vector<uint64_t>& values, int k) {
  uint64_t cost = 0;
  for (uint64_t v : values) cost += (v >> k) >= rice_escape ? rice_escape + full_bits : (v >> k) + 1 + k;
  return cost;
}

}  // namespace nanite_cull
