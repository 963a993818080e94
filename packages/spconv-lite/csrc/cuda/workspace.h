// Cuts one piece of scratch memory into arrays. Called with a null base it only counts the bytes.
#pragma once

#include <native/device.h>

#include <cstdint>

namespace spconv_lite::cuda {

class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* array(int64_t count) {
    T* start = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    const int64_t room = (bytes + alignment - 1) / alignment * alignment + int64_t{dev::red_zone};
    if (start) dev::cut(start, static_cast<size_t>(bytes), static_cast<size_t>(room - bytes));
    used_ += room;
    return start;
  }
  int64_t bytes() const { return used_; }

 private:
  static constexpr int64_t alignment = 256;
  char* base_;
  int64_t used_ = 0;
};

}  // namespace spconv_lite::cuda
