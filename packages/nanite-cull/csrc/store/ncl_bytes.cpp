#include "store/ncl_bytes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "native/check.h"

namespace nanite_cull {

NclBytes NclBytes::of_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info{};
  if (file < 0 || fstat(file, &info) != 0) {
    const std::string why = std::strerror(errno);
    if (file >= 0) close(file);
    throw native::MachineError("read_ncl: cannot open " + path + ": " + why);
  }
  NclBytes bytes(nullptr, static_cast<size_t>(info.st_size));
  bytes.where_ = ", in " + path;
  bytes.file_ = std::shared_ptr<const int>(new int(file), [](const int* descriptor) {
    close(*descriptor);
    delete descriptor;
  });
  if (bytes.size_ == 0) throw native::ValueError("read_ncl: " + path + " is empty");
  return bytes;
}

void NclBytes::read(uint64_t offset, size_t bytes, void* target) const {
  if (!file_) {
    if (bytes > 0) std::memcpy(target, data_ + offset, bytes);
    return;
  }
  for (size_t done = 0; done < bytes;) {
    const ssize_t count =
        pread(*file_, static_cast<uint8_t*>(target) + done, bytes - done, static_cast<off_t>(offset + done));
    if (count == 0)
      throw native::ValueError("read_ncl: the file was cut short while it was open: byte " +
                               std::to_string(offset + done) + " of " + std::to_string(size_) + " is gone" +
                               where_);
    if (count < 0 && errno != EINTR)
      throw native::MachineError(std::string("read_ncl: cannot read: ") + std::strerror(errno) + where_);
    if (count > 0) done += static_cast<size_t>(count);
  }
}

const uint8_t* NclBytes::at(uint64_t offset, size_t bytes, std::vector<uint8_t>& room) const {
  if (!file_) return data_ + offset;
  if (room.size() < bytes) room.resize(bytes);
  read(offset, bytes, room.data());
  return room.data();
}

}  // namespace nanite_cull
