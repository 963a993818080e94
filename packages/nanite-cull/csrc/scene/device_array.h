// An array in the memory of the current device, owned. In files that a CUDA compiler or the simulator reads.
#pragma once

#include <native/device.h>

#include <cstddef>
#include <utility>
#include <vector>

namespace nanite_cull::cuda {

template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(DeviceArray&& other) noexcept : data_(other.data_), size_(other.size_), room_(other.room_) {
    other.data_ = nullptr, other.size_ = other.room_ = 0;
  }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_), std::swap(room_, other.room_);
    return *this;
  }
  ~DeviceArray() { dev::release(data_); }

  // What it held is lost where it has to grow.
  void resize(std::size_t size) {
    if (size > room_) {
      dev::release(data_);
      data_ = nullptr, size_ = room_ = 0;
      data_ = static_cast<T*>(dev::allocate(size * sizeof(T)));
      room_ = size;
    }
    size_ = size;
  }
  void upload(const T* from, std::size_t first, std::size_t count, dev::Stream stream) {
    dev::upload(data_ + first, from, count * sizeof(T), stream);
  }
  void upload(const std::vector<T>& from, dev::Stream stream) {
    resize(from.size());
    upload(from.data(), 0, from.size(), stream);
  }
  void read_back(T* to, std::size_t first, std::size_t count, dev::Stream stream) const {
    dev::read_back(to, data_ + first, count * sizeof(T), stream);
  }
  void fill(int byte, dev::Stream stream) { dev::fill_bytes(data_, byte, size_ * sizeof(T), stream); }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0, room_ = 0;
};

}  // namespace nanite_cull::cuda
