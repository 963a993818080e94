// A test program of simulated kernels: cases by name, run with many seeds.
//
//   CUSIM_CASE(hash_insert) { ...; CUSIM_REQUIRE(found == expected); }
//   CUSIM_MAIN
//
//   program --list                              names, one a line
//   program NAME [--seed S] [--seeds N]         seeds S..S+N-1; stops at the first failure
//   program --all [--seed S] [--seeds N]        every case
//
// With nvcc the same program runs on a device (device/cusim_test.h).
//
// Exit codes: 0 clean, 3 an error of the simulator, 4 a wrong result. A sanitizer brings its own.
#pragma once

#if defined(__CUDACC__)
#include "device/cusim_test.h"
#else

#include "cusim.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace cusim_test {

using Case = void (*)(cusim::Device&);

inline std::map<std::string, Case>& cases() {
  static std::map<std::string, Case> all;
  return all;
}

struct Registration {
  Registration(const char* name, Case run) { cases()[name] = run; }
};

struct WrongResult : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void require(bool holds, const std::string& what, const char* file, int line) {
  if (!holds) throw WrongResult(std::string(file) + ":" + std::to_string(line) + ": not so: " + what);
}

// Remembers what a case found with its first seed; every later seed must find the same bytes.
template <class T>
void require_same(const std::vector<T>& found, const char* what, const char* file, int line) {
  static std::map<std::pair<std::string, int>, std::vector<T> > first;
  const auto [at, fresh] = first.try_emplace({file, line}, found);
  require(fresh || (at->second.size() == found.size() &&
                    std::memcmp(at->second.data(), found.data(), found.size() * sizeof(T)) == 0),
          std::string(what) + " is the same with every seed", file, line);
}

inline int run(Case body, std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    cusim::Device device;
    device.config.seed = seed;
    cusim::begin(seed);
    try {
      body(device);
      if (device.queued() || cusim::default_device().queued())
        throw cusim::Error(
            "cusim: work was still queued when the case ended: wait for it by device.wait() or "
            "Buffer::host()");
    } catch (const cusim::Error& e) {
      std::fprintf(stderr, "%s\n", e.what());
      return 3;
    } catch (const WrongResult& e) {
      std::fprintf(stderr, "wrong result: %s\n  seed %llu\n", e.what(),
                   static_cast<unsigned long long>(seed));
      return 4;
    }
  }
  return 0;
}

inline int main(int argc, char** argv) {
  std::string name;
  std::uint64_t seed = 1, seeds = 1;
  bool all = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--list") {
      for (const auto& entry : cases()) std::puts(entry.first.c_str());
      return 0;
    }
    if (word == "--all")
      all = true;
    else if (word == "--seed" && i + 1 < argc)
      seed = std::strtoull(argv[++i], nullptr, 10);
    else if (word == "--seeds" && i + 1 < argc)
      seeds = std::strtoull(argv[++i], nullptr, 10);
    else
      name = word;
  }
  if (all) {
    for (const auto& entry : cases())
      if (const int code = run(entry.second, seed, seeds)) {
        std::fprintf(stderr, "  in case %s\n", entry.first.c_str());
        return code;
      }
    return 0;
  }
  const auto found = cases().find(name);
  if (found == cases().end()) {
    std::fprintf(stderr, "usage: %s --list | --all | NAME [--seed S] [--seeds N]\n", argv[0]);
    return 2;
  }
  return run(found->second, seed, seeds);
}

}  // namespace cusim_test

#define CUSIM_CASE(name)                                                       \
  static void case_##name(cusim::Device&);                                     \
  static const cusim_test::Registration registered_##name(#name, case_##name); \
  static void case_##name([[maybe_unused]] cusim::Device& device)

#define CUSIM_REQUIRE(condition) cusim_test::require((condition), #condition, __FILE__, __LINE__)

// For what must not depend on the order of threads: run with several seeds.
#define CUSIM_REQUIRE_SAME(values) cusim_test::require_same((values), #values, __FILE__, __LINE__)

#define CUSIM_MAIN \
  int main(int argc, char** argv) { return cusim_test::main(argc, argv); }

#endif
