// The bytes of an .ncl file, read as they are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nanite_cull {

// Bytes in memory, or of an open file. Nothing is mapped: a file that somebody cuts short while it is open
// is an error here, where touching the mapped page would end the process (SIGBUS). May be read by many
// threads.
class NclBytes {
 public:
  // The caller keeps the memory.
  NclBytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // Throws native::ValueError for an empty file, native::MachineError when it cannot be opened.
  static NclBytes of_file(const std::string& path);

  size_t size() const { return size_; }
  // Said of the file in errors: ", in " and its path; nothing of memory.
  const std::string& where() const { return where_; }

  // Copies `bytes` from `offset`, which lie inside. Throws native::ValueError when the file no longer has
  // them, native::MachineError when it cannot be read.
  void read(uint64_t offset, size_t bytes, void* target) const;

  // The same bytes in place, or read into `room`.
  const uint8_t* at(uint64_t offset, size_t bytes, std::vector<uint8_t>& room) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  std::string where_;
  std::shared_ptr<const int> file_;  // closed by its last owner
};

}  // namespace nanite_cull
