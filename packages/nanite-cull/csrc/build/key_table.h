// Equal keys to equal numbers: the hash table behind welding.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "core/records.h"

namespace nanite_cull {

// A hash table from a key of `width` words to a dense id; keys live in the caller's array.
class KeyTable {
 public:
  KeyTable(size_t expected, int width) : width_(width) {
    size_t size = 64;
    while (size < expected * 2) size *= 2;
    slots_.assign(size, none);
  }

  // The id of `key`, new or known. New keys are appended to `keys`.
  uint32_t find_or_add(const uint32_t* key, std::vector<uint32_t>& keys) {
    size_t slot = hash(key) & (slots_.size() - 1);
    while (slots_[slot] != none) {
      if (std::memcmp(&keys[size_t(slots_[slot]) * width_], key, sizeof(uint32_t) * width_) == 0)
        return slots_[slot];
      slot = (slot + 1) & (slots_.size() - 1);
    }
    const uint32_t id = static_cast<uint32_t>(keys.size() / width_);
    keys.insert(keys.end(), key, key + width_);
    slots_[slot] = id;
    if (size_t(id) * 2 > slots_.size()) grow(keys);
    return id;
  }

 private:
  size_t hash(const uint32_t* key) const {
    uint64_t h = 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < width_; ++i) {
      h = (h ^ key[i]) * 0xff51afd7ed558ccdull;
      h ^= h >> 32;
    }
    return h;
  }
  void grow(const std::vector<uint32_t>& keys) {
    slots_.assign(slots_.size() * 2, none);
    for (size_t id = 0; id * width_ < keys.size(); ++id) {
      size_t slot = hash(&keys[id * width_]) & (slots_.size() - 1);
      while (slots_[slot] != none) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<uint32_t>(id);
    }
  }
  int width_;
  std::vector<uint32_t> slots_;
};

}  // namespace nanite_cull
