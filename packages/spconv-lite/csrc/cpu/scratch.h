// Large temporary arrays that keep their pages between calls: fresh memory costs more in page faults than
// the loops that it serves. At most `kept_bytes` stay in the pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace spconv_lite {

void* take_scratch(size_t bytes, size_t* capacity);  // throws std::bad_alloc
void give_scratch(void* memory, size_t capacity) noexcept;

// An array from the pool, of values that an earlier one left. Movable.
template <class T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t count)
      : memory_(static_cast<T*>(take_scratch(static_cast<size_t>(count) * sizeof(T), &capacity_))) {}
  Scratch(Scratch&& other) noexcept { swap(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Scratch() {
    if (memory_ != nullptr) give_scratch(memory_, capacity_);
  }

  T* get() const { return memory_; }
  T& operator[](int64_t i) const { return memory_[i]; }
  int64_t capacity() const { return static_cast<int64_t>(capacity_ / sizeof(T)); }

 private:
  void swap(Scratch& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(capacity_, other.capacity_);
  }

  size_t capacity_ = 0;  // before memory_, whose initialiser sets it
  T* memory_ = nullptr;
};

}  // namespace spconv_lite
