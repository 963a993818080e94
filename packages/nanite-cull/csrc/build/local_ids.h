// Dense numbers for the few distinct ids that a patch of a mesh uses, in the order of their first use.
#pragma once

#include <cstdint>
#include <vector>

#include "core/records.h"

namespace nanite_cull {

class LocalIds {
 public:
  explicit LocalIds(size_t expected) {
    size_t size = 64;
    while (size < expected * 2) size *= 2;
    keys_.assign(size, none);
    ids_.resize(size);
  }
  uint32_t find_or_add(uint32_t key, std::vector<uint32_t>& added) {
    size_t slot = (key * 0x9e3779b97f4a7c15ull >> 24) & (keys_.size() - 1);
    while (keys_[slot] != none) {
      if (keys_[slot] == key) return ids_[slot];
      slot = (slot + 1) & (keys_.size() - 1);
    }
    keys_[slot] = key;
    ids_[slot] = static_cast<uint32_t>(added.size());
    added.push_back(key);
    return ids_[slot];
  }

 private:
  std::vector<uint32_t> keys_, ids_;
};

}  // namespace nanite_cull
