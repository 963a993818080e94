// The simulator's test programs on a real device: its names over cudaMalloc and one stream, so that the same
// .cpp compiles with nvcc. tools/gpu_check.py --prepare builds them; they take the arguments of the
// simulator's cusim_test.h. Exit codes: 0 clean, 1 a case failed, 2 the device stopped answering.
#pragma once

#include <native/device.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#define CUSIM_ON_DEVICE 1

namespace cusim {

struct Config {
  unsigned long long seed = 1;
};

// Waits and operations of the stream are not counted on a device: whatever a test expects of them holds.
struct Uncounted {
  Uncounted() = default;
  Uncounted(unsigned long long) {}
  operator unsigned long long() const { return 0; }
  template <class T>
  friend bool operator==(Uncounted, const T&) {
    return true;
  }
};

struct Statistics {
  unsigned long long launches = 0;
  Uncounted host_waits, operations;
};

struct Device {
  Config config;
  Statistics statistics;
  void wait() { dev::check(cudaDeviceSynchronize(), "wait"); }
  std::size_t queued() const { return 0; }
  cudaStream_t operator&() { return nullptr; }  // NOLINT: the simulator's streams are addresses of devices
};

inline void upload(void* target, const void* host, std::size_t bytes) {
  if (bytes) dev::check(cudaMemcpy(target, host, bytes, cudaMemcpyHostToDevice), "upload");
}

template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count) : count_(count) {
    dev::check(cudaMalloc(&data_, count * sizeof(T) + 1), "Buffer");  // an address of its own, if empty too
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    upload(data_, values.data(), count_ * sizeof(T));
  }
  Buffer(std::size_t count, T value) : Buffer(std::vector<T>(count, value)) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }

  T* data() { return data_; }
  std::size_t size() const { return count_; }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    if (count_)
      dev::check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
                 "Buffer::host");
    return values;
  }

 private:
  std::size_t count_;
  T* data_ = nullptr;
};

// All of it is allocated: a device has no sparse memory worth the name.
template <class T>
class Sparse {
 public:
  class Element {
   public:
    explicit Element(T* at) : at_(at) {}
    Element& operator=(T value) {
      upload(at_, &value, sizeof(T));
      return *this;
    }

   private:
    T* at_;
  };

  explicit Sparse(std::size_t count) {
    dev::check(cudaMalloc(&data_, count * sizeof(T)), "Sparse");
    dev::check(cudaMemset(data_, 0, count * sizeof(T)), "Sparse");
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  ~Sparse() { cudaFree(data_); }

  T* data() { return data_; }
  Element operator[](std::size_t i) { return Element(data_ + i); }

 private:
  T* data_ = nullptr;
};

}  // namespace cusim

namespace cusim_test {

using Case = void (*)(cusim::Device&);

inline std::map<std::string, Case>& cases() {
  static std::map<std::string, Case> all;
  return all;
}

struct Registration {
  Registration(const char* name, Case run) { cases()[name] = run; }
};

inline void require(bool holds, const std::string& what, const char* file, int line) {
  if (!holds) throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": not so: " + what);
}

// Remembers what a case found with its first seed; every later seed must find the same bytes.
template <class T>
void require_same(const std::vector<T>& found, const char* what, const char* file, int line) {
  static std::map<std::pair<std::string, int>, std::vector<T>> first;
  const auto [at, fresh] = first.try_emplace({file, line}, found);
  require(fresh || (at->second.size() == found.size() &&
                    std::memcmp(at->second.data(), found.data(), found.size() * sizeof(T)) == 0),
          std::string(what) + " is the same with every seed", file, line);
}

inline int main(int argc, char** argv) {
  std::string name;
  unsigned long long seed = 1, seeds = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--list") {
      for (const auto& entry : cases()) std::puts(entry.first.c_str());
      return 0;
    }
    if (word == "--seed" && i + 1 < argc)
      seed = std::strtoull(argv[++i], nullptr, 10);
    else if (word == "--seeds" && i + 1 < argc)
      seeds = std::strtoull(argv[++i], nullptr, 10);
    else if (word != "--all")
      name = word;
  }
  int failed = 0;
  for (const auto& [case_name, body] : cases()) {
    if (!name.empty() && case_name != name) continue;
    std::string wrong;
    for (unsigned long long s = seed; s < seed + seeds && wrong.empty(); ++s) {
      cusim::Device device;
      device.config.seed = s;
      try {
        body(device);
        device.wait();
      } catch (const std::exception& e) {
        wrong = std::string(e.what()) + ", seed " + std::to_string(s);
      }
    }
    std::printf("%-60s %s\n", case_name.c_str(), wrong.empty() ? "clean" : wrong.c_str());
    std::fflush(stdout);
    failed += !wrong.empty();
    if (cudaDeviceSynchronize() != cudaSuccess) {
      std::printf("the device stopped answering after %s\n", case_name.c_str());
      return 2;
    }
  }
  return failed != 0;
}

}  // namespace cusim_test

#define CUSIM_CASE(name)                                                       \
  static void case_##name(cusim::Device&);                                     \
  static const cusim_test::Registration registered_##name(#name, case_##name); \
  static void case_##name([[maybe_unused]] cusim::Device& device)

#define CUSIM_REQUIRE(condition) cusim_test::require((condition), #condition, __FILE__, __LINE__)
#define CUSIM_REQUIRE_SAME(values) cusim_test::require_same((values), #values, __FILE__, __LINE__)

#define CUSIM_MAIN \
  int main(int argc, char** argv) { return cusim_test::main(argc, argv); }
