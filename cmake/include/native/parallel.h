// One parallel loop for all cores, over OpenMP: the runtime that torch brings, so that
// torch.set_num_threads and OMP_NUM_THREADS mean what a user expects.
//
// - Work is cut into chunks of a fixed size, so what a chunk computes does not depend on the number of
//   threads; a caller that reduces per chunk gets the same bits for 1 and for n threads.
// - A process forked after threads were used (a DataLoader worker) has no live pool, and libgomp would
//   wait for it forever: there the loop runs serially.
// - An exception inside the body is rethrown in the caller (the one of the lowest chunk that threw).
// - NATIVE_STD_THREADS=1 selects std::thread in place of OpenMP: the thread sanitizer sees it exactly.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include <unistd.h>

#if NATIVE_STD_THREADS
#include <thread>
#include <vector>
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace native {

namespace detail {

// The process that loaded this library; a different pid later means that we were forked.
inline const pid_t loading_process = getpid();

// Keeps the exception of the lowest chunk, so that the error does not depend on timing. A spin lock and
// plain members: an out-of-line inline function (std::mutex::lock, say) would be compiled once for each
// instruction set and the linker would keep any one of them for all (see dispatch.h).
struct FirstError {
  std::exception_ptr error;

  template <class Body>
  void run(int64_t chunk, Body&& body) {
    try {
      body();
    } catch (...) {
      while (busy_.exchange(true, std::memory_order_acquire)) {}
      if (error == nullptr || chunk < chunk_) {
        error = std::current_exception();
        chunk_ = chunk;
      }
      busy_.store(false, std::memory_order_release);
    }
  }

 private:
  std::atomic<bool> busy_{false};
  int64_t chunk_ = 0;
};

}  // namespace detail

// True in a child of the process that loaded this library.
inline bool forked() { return getpid() != detail::loading_process; }

// How many threads a loop uses when it is not told.
inline int max_threads() {
#if NATIVE_STD_THREADS
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#elif defined(_OPENMP)
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

// Calls body(begin, end) for [0, count) cut into chunks of `grain` (the last may be shorter).
// threads <= 0 means max_threads().
template <class Body>
void parallel_for(int64_t count, int64_t grain, int threads, Body&& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(1, grain);
  const int64_t chunks = (count + grain - 1) / grain;
  if (threads <= 0) threads = max_threads();
  threads = static_cast<int>(std::min<int64_t>(threads, chunks));
  if (threads > 1 && forked()) threads = 1;

  auto chunk = [&](int64_t i) { body(i * grain, std::min(count, (i + 1) * grain)); };
  if (threads <= 1) {
    for (int64_t i = 0; i < chunks; ++i) chunk(i);
    return;
  }
  detail::FirstError first;
#if NATIVE_STD_THREADS
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < chunks;)
      first.run(i, [&] { chunk(i); });
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (auto& thread : pool) thread.join();
#else
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < chunks; ++i) first.run(i, [&] { chunk(i); });
#endif
  if (first.error != nullptr) std::rethrow_exception(first.error);
}

}  // namespace native
