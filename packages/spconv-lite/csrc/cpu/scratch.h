// Large temporary arrays that keep their pages between calls: a fresh 20 MB bitmap costs more in page
// faults than the rulebook that it serves. At most `kept_bytes` stay in the pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace spconv_lite {

enum class Content { any, zero };  // zero: taken all zero, and given back so

void* take_scratch(size_t bytes, Content content, size_t* capacity);  // throws std::bad_alloc
void give_scratch(void* memory, Content content, size_t capacity) noexcept;

// An array from the pool. Movable.
template <class T, Content content = Content::any>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t count)
      : memory_(static_cast<T*>(take_scratch(static_cast<size_t>(count) * sizeof(T), content, &capacity_))) {}
  Scratch(Scratch&& other) noexcept { swap(other); }
  Scratch& operator=(Scratch&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Scratch() {
    if (memory_ != nullptr) give_scratch(memory_, content, capacity_);
  }

  T* get() const { return memory_; }
  T& operator[](int64_t i) const { return memory_[i]; }

 private:
  void swap(Scratch& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(capacity_, other.capacity_);
  }

  size_t capacity_ = 0;  // before memory_, whose initialiser sets it
  T* memory_ = nullptr;
};

}  // namespace spconv_lite
