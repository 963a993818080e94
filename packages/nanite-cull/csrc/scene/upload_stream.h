// Copies to a device beside what it does: by a stream of their own, through chunks of pinned memory, of which
// the host fills one while the others are on their way. Compiled and simulated, never run.
#pragma once

#include <native/device.h>

#include <algorithm>
#include <cstring>

namespace nanite_cull::cuda {

class UploadStream {
 public:
  explicit UploadStream(std::size_t chunk_bytes) : chunk_bytes_(chunk_bytes) {
    for (Chunk& chunk : chunks_)
      chunk.memory = static_cast<unsigned char*>(dev::allocate_pinned(chunk_bytes));
  }
  ~UploadStream() {
    try {
      wait();  // before pinned memory goes
    } catch (...) {}
  }
  UploadStream(const UploadStream&) = delete;
  UploadStream& operator=(const UploadStream&) = delete;

  // Copies that follow wait for what is queued on `stream` now.
  void begin(dev::Stream stream) {
    before_.record(stream);
    before_.hold_back(stream_.get());
  }

  // Queues a copy; the host's memory may change at once.
  void upload(void* target, const void* from, std::size_t bytes) {
    auto* to = static_cast<unsigned char*>(target);
    for (auto* rest = static_cast<const unsigned char*>(from); bytes > 0;) {
      if (used_ == chunk_bytes_) next_chunk();
      const std::size_t part = std::min(bytes, chunk_bytes_ - used_);
      unsigned char* const pinned = chunks_[chunk_].memory + used_;
      std::memcpy(pinned, rest, part);
      dev::upload_later(to, pinned, part, stream_.get());
      to += part, rest += part, used_ += part, bytes -= part;
    }
  }

  // What is queued on `stream` from now on waits for all copies so far; the host does not.
  void hold_back(dev::Stream stream) {
    after_.record(stream_.get());
    after_.hold_back(stream);
  }

  // The host waits for all copies so far: before memory goes that they write to.
  void wait() { dev::wait(stream_.get()); }

 private:
  void next_chunk() {
    chunks_[chunk_].sent.record(stream_.get());
    chunk_ = (chunk_ + 1) % chunk_count, used_ = 0;
    chunks_[chunk_].sent.wait();
  }

  static constexpr int chunk_count = 3;
  struct Chunk {
    unsigned char* memory = nullptr;
    dev::Event sent;
    ~Chunk() { dev::release_pinned(memory); }
  };
  const std::size_t chunk_bytes_;
  std::size_t used_ = 0;  // of the current chunk
  int chunk_ = 0;
  Chunk chunks_[chunk_count];
  dev::Event before_, after_;
  dev::SideStream stream_;  // goes first
};

}  // namespace nanite_cull::cuda
