// FNV-1a over the bytes of a range of plain values.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

template <class T>
uint64_t hash_of(const std::vector<T>& values) {
  uint64_t hash = 14695981039346656037u;
  for (const T& value : values) {
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    for (unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211u;
  }
  return hash;
}
