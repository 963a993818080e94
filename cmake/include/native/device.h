// One source for host, CUDA and the simulator of tests/cuda_sim.
//
// Three compilers read this header:
//   nvcc                        everything below maps to CUDA
//   host, -DNATIVE_CUDA_SIM     everything maps to the simulator (cusim.h, on the include path of tests)
//   host                        only HD and the bit helpers exist: for what CPU and CUDA code share
//
// Rules for kernels, so that the simulator and its sanitizers see what a device would do:
//   - shared arrays by DEV_SHARED (32-byte aligned) or DEV_DYNAMIC_SHARED, launches by dev::launch;
//   - legacy atomics (atomicAdd, atomicCAS, ...) are relaxed: they order nothing else;
//   - data is handed from thread to thread inside a kernel by store_release and load_acquire, by
//     fetch_add_acq_rel, or by a barrier; polls use load_acquire and dev::pause();
//   - no bare __threadfence, no __ldg, no inline PTX, no reliance on warps running in lock-step;
//   - grid-stride launches have dev::grid_blocks blocks, which the simulator makes few;
//   - arrays that are cut from one allocation lie dev::red_zone apart and are announced by dev::cut;
//   - unsigned arithmetic that is meant to wrap (a hash) is in a function marked DEV_WRAPS.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define HD __host__ __device__ inline
#else
#define HD inline
#endif

#if defined(__clang__) && defined(NATIVE_CUDA_SIM)
#define DEV_WRAPS __attribute__((no_sanitize("unsigned-integer-overflow", "unsigned-shift-base")))
#else
#define DEV_WRAPS
#endif

#if defined(__CUDACC__)
#include <cuda/atomic>
#include <stdexcept>
#include <string>

// DEV_KERNEL(threads) name(arguments) { ... }: a kernel launched with at most `threads` per block.
// DEV_KERNEL(threads, blocks): and with registers for at least so many blocks of a multiprocessor at once.
#define DEV_KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define DEV_FN __device__ inline
#define DEV_PRAGMA(text) _Pragma(#text)
#define DEV_UNROLL DEV_PRAGMA(unroll)
#define DEV_UNROLL_BY(count) DEV_PRAGMA(unroll count)
#define DEV_SHARED(type, name, count) __shared__ __align__(32) type name[count]
// The dynamic shared memory of the launch, 16-byte aligned, as `type *name`.
#define DEV_DYNAMIC_SHARED(type, name)                                    \
  extern __shared__ __align__(16) unsigned char native_dynamic_shared_[]; \
  type* name = reinterpret_cast<type*>(native_dynamic_shared_)

#elif defined(NATIVE_CUDA_SIM)
#include "cusim.h"

#if defined(__clang__)
// The bound travels with the kernel as that many bytes before its entry, where the simulator reads it.
#define DEV_FIRST(max_threads, ...) max_threads
#define DEV_KERNEL(...) \
  __attribute__((patchable_function_entry(DEV_FIRST(__VA_ARGS__, 0), DEV_FIRST(__VA_ARGS__, 0)))) inline void
#else
#define DEV_KERNEL(...) inline void
#endif
#define DEV_FN inline
#define DEV_UNROLL
#define DEV_UNROLL_BY(count)
#define DEV_SHARED(type, name, count) \
  static char name##_site_;           \
  type* name = static_cast<type*>(cusim::shared_array(&name##_site_, sizeof(type) * (count), alignof(type)))
#define DEV_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(cusim::dynamic_shared())
#endif

namespace dev {

// ---- bits: the same names in all three modes ----

HD int popcount(std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __popc(x);
#else
  return __builtin_popcount(x);
#endif
}

HD int popcount(std::uint64_t x) {
#if defined(__CUDA_ARCH__)
  return __popcll(x);
#else
  return __builtin_popcountll(x);
#endif
}

// Index of the lowest set bit; x must not be 0.
HD int lowest_bit(std::uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(x)) - 1;
#else
  return __builtin_ctz(x);
#endif
}

HD int lowest_bit(std::uint64_t x) {
#if defined(__CUDA_ARCH__)
  return __ffsll(static_cast<long long>(x)) - 1;
#else
  return __builtin_ctzll(x);
#endif
}

#if defined(__CUDACC__) || defined(NATIVE_CUDA_SIM)

// Extent of a grid or a block. 64-bit, so that a size that CUDA cannot launch is an error and never
// a silent wrap.
struct Dim {
  std::int64_t x = 1, y = 1, z = 1;
  Dim(std::int64_t x_, std::int64_t y_ = 1, std::int64_t z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Grid-stride loop over one-dimensional launches:
//   for (int64_t i = dev::thread_index(); i < n; i += dev::thread_count())
DEV_FN std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

DEV_FN std::int64_t thread_count() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

DEV_FN int lane() { return static_cast<int>(threadIdx.x & 31u); }

constexpr unsigned all_lanes = 0xffffffffu;

// Passes a launch argument with an implicit conversion only: float to int stays a compiler warning.
template <class P>
P as_parameter(P value) {
  return value;
}

#endif

#if defined(__CUDACC__)

using Stream = cudaStream_t;

inline Stream stream_from(void* handle) { return static_cast<Stream>(handle); }

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // said once: CUDA keeps it, and the next launch would take it for its own
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(status) + " (" +
                           cudaGetErrorString(status) + ")");
}

// Starts kernel(args...) on the stream; returns before it has run. Throws std::runtime_error when the
// launch itself is refused.
template <class... P, class... A>
void launch(void (*kernel)(P...), Dim grid, Dim block, std::size_t shared_bytes, Stream stream, A&&... args) {
  const auto fits = [](const Dim& d, std::int64_t x, std::int64_t yz) {
    return d.x >= 1 && d.x <= x && d.y >= 1 && d.y <= yz && d.z >= 1 && d.z <= yz;
  };
  if (!fits(grid, 0x7fffffff, 65535) || !fits(block, 1024, 1024))
    throw std::runtime_error("dev::launch: grid " + std::to_string(grid.x) + "x" + std::to_string(grid.y) +
                             "x" + std::to_string(grid.z) + " of blocks " + std::to_string(block.x) + "x" +
                             std::to_string(block.y) + "x" + std::to_string(block.z) +
                             " is outside what CUDA can launch");
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "dev::launch (shared memory)");
  const auto narrow = [](const Dim& d) {
    return dim3(static_cast<unsigned>(d.x), static_cast<unsigned>(d.y), static_cast<unsigned>(d.z));
  };
  kernel<<<narrow(grid), narrow(block), shared_bytes, stream>>>(as_parameter<P>(args)...);
  check(cudaGetLastError(), "dev::launch");
}

inline void fill_bytes(void* target, int byte, std::size_t bytes, Stream stream) {
  if (bytes) check(cudaMemsetAsync(target, byte, bytes, stream), "dev::fill_bytes");
}

inline void copy_on_device(void* target, const void* source, std::size_t bytes, Stream stream) {
  if (bytes)
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream), "dev::copy_on_device");
}

// Memory of the current device. Allocating and releasing it may wait for the device.
inline void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  if (bytes) check(cudaMalloc(&memory, bytes), "dev::allocate");
  return memory;
}
inline void release(void* memory) { cudaFree(memory); }  // only a lost device refuses

// Waits until the stream has done all that is queued.
inline void wait(Stream stream) { check(cudaStreamSynchronize(stream), "dev::wait"); }

// Copies to the device, in the stream's order. The host's memory has to stay as it is until the stream has
// come so far: a device that reads pageable memory by itself takes no copy of it first.
inline void upload(void* target, const void* host, std::size_t bytes, Stream stream) {
  if (bytes) check(cudaMemcpyAsync(target, host, bytes, cudaMemcpyHostToDevice, stream), "dev::upload");
}

// Copies to the host and waits for the stream.
inline void read_back(void* host, const void* device, std::size_t bytes, Stream stream) {
  if (!bytes) return;
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), "dev::read_back");
  wait(stream);
}

// Waits until every stream of the current device has done all that is queued.
inline void wait_for_device() { check(cudaDeviceSynchronize(), "dev::wait_for_device"); }

// Memory of the host that the device copies from by itself, while the host goes on.
inline void* allocate_pinned(std::size_t bytes) {
  void* memory = nullptr;
  if (bytes) check(cudaMallocHost(&memory, bytes), "dev::allocate_pinned");
  return memory;
}
inline void release_pinned(void* memory) { cudaFreeHost(memory); }

// Queues a copy to the device from pinned memory, which stays as it is until the stream has come so far.
inline void upload_later(void* target, const void* pinned, std::size_t bytes, Stream stream) {
  if (bytes)
    check(cudaMemcpyAsync(target, pinned, bytes, cudaMemcpyHostToDevice, stream), "dev::upload_later");
}

// A stream that runs beside all others.
class SideStream {
 public:
  SideStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "dev::SideStream"); }
  ~SideStream() { cudaStreamDestroy(stream_); }  // what is queued is done all the same
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  Stream get() { return stream_; }

 private:
  Stream stream_ = nullptr;
};

// A place in the order of a stream: behind what was queued there when it was last recorded.
class Event {
 public:
  Event() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "dev::Event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Stream stream) { check(cudaEventRecord(event_, stream), "dev::Event::record"); }
  // What is queued on `stream` from now on waits for it; the host does not.
  void hold_back(Stream stream) { check(cudaStreamWaitEvent(stream, event_, 0), "dev::Event::hold_back"); }
  // The host waits for it.
  void wait() { check(cudaEventSynchronize(event_), "dev::Event::wait"); }

 private:
  cudaEvent_t event_ = nullptr;
};

// Bytes between arrays that are cut from one allocation; the simulator leaves some and guards them.
inline constexpr std::size_t red_zone = 0;
inline void cut(void*, std::size_t, std::size_t) {}

// Streaming multiprocessors of the current device: workspaces are sized by it.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "dev::multiprocessors");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "dev::multiprocessors");
  return count;
}

// Blocks of a grid-stride launch: `wanted` would give every item a thread, `per_multiprocessor` fill the
// device.
inline std::int64_t grid_blocks(std::int64_t wanted, int per_multiprocessor) {
  const std::int64_t most = std::int64_t{multiprocessors()} * per_multiprocessor;
  return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

template <class T>
using Atomic = cuda::atomic_ref<T, cuda::thread_scope_device>;

template <class T>
DEV_FN T load_relaxed(const T* p) {
  return Atomic<T>(*const_cast<T*>(p)).load(cuda::memory_order_relaxed);
}
template <class T>
DEV_FN T load_acquire(const T* p) {
  return Atomic<T>(*const_cast<T*>(p)).load(cuda::memory_order_acquire);
}
template <class T>
DEV_FN void store_relaxed(T* p, T value) {
  Atomic<T>(*p).store(value, cuda::memory_order_relaxed);
}
template <class T>
DEV_FN void store_release(T* p, T value) {
  Atomic<T>(*p).store(value, cuda::memory_order_release);
}
template <class T>
DEV_FN T fetch_add_acq_rel(T* p, T value) {
  return Atomic<T>(*p).fetch_add(value, cuda::memory_order_acq_rel);
}

// Gives way to other threads inside a poll.
DEV_FN void pause() { __nanosleep(64); }

// Ends the kernel with an error when a promise of our own does not hold.
#define DEV_ASSERT(condition)   \
  do {                          \
    if (!(condition)) __trap(); \
  } while (0)

#elif defined(NATIVE_CUDA_SIM)

using Stream = cusim::Device*;

inline Stream stream_from(void* handle) { return static_cast<Stream>(handle); }

template <class... P, class... A>
void launch(void (*kernel)(P...), Dim grid, Dim block, std::size_t shared_bytes, Stream stream, A&&... args) {
  cusim::launch(stream, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, kernel,
                as_parameter<P>(args)...);
}

inline void fill_bytes(void* target, int byte, std::size_t bytes, Stream stream) {
  cusim::fill_bytes(stream, target, byte, bytes);
}

inline void copy_on_device(void* target, const void* source, std::size_t bytes, Stream stream) {
  cusim::copy_on_device(stream, target, source, bytes);
}

inline void* allocate(std::size_t bytes) { return bytes ? cusim::allocate(bytes) : nullptr; }
inline void release(void* memory) {
  if (memory) cusim::release(memory);
}

inline void wait(Stream stream) { (stream ? *stream : cusim::default_device()).wait(); }

inline void upload(void* target, const void* host, std::size_t bytes, Stream stream) {
  wait(stream);
  if (bytes) cusim::upload(target, host, bytes);
}

inline void read_back(void* host, const void* device, std::size_t bytes, Stream stream) {
  cusim::read_back(stream, host, device, bytes);
}

inline void wait_for_device() { cusim::wait_for_all(); }

inline void* allocate_pinned(std::size_t bytes) { return bytes ? ::operator new(bytes) : nullptr; }
inline void release_pinned(void* memory) { ::operator delete(memory); }

inline void upload_later(void* target, const void* pinned, std::size_t bytes, Stream stream) {
  cusim::upload_later(stream, target, pinned, bytes);
}

class SideStream {
 public:
  ~SideStream() { device_.finish(); }
  Stream get() { return &device_; }

 private:
  cusim::Device device_;
};

using Event = cusim::Event;

inline constexpr std::size_t red_zone = 256;
inline void cut(void* start, std::size_t bytes, std::size_t gap) { cusim::cut(start, bytes, gap); }

inline int multiprocessors() { return cusim::multiprocessors; }

inline std::int64_t grid_blocks(std::int64_t wanted, int) {
  const std::int64_t most = cusim::most_blocks();
  return wanted < 1 ? 1 : wanted < most ? wanted : most;
}

template <class T>
T load_relaxed(const T* p, CUSIM_SITE) {
  cusim::yield_point(file, line);
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}
template <class T>
T load_acquire(const T* p, CUSIM_SITE) {
  cusim::yield_point(file, line);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
template <class T>
void store_relaxed(T* p, T value, CUSIM_SITE) {
  cusim::yield_point(file, line);
  __atomic_store_n(p, value, __ATOMIC_RELAXED);
}
template <class T>
void store_release(T* p, T value, CUSIM_SITE) {
  cusim::yield_point(file, line);
  __atomic_store_n(p, value, __ATOMIC_RELEASE);
}
template <class T>
T fetch_add_acq_rel(T* p, T value, CUSIM_SITE) {
  cusim::yield_point(file, line);
  return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);
}

inline void pause(CUSIM_SITE) { cusim::sleep(file, line); }

#define DEV_ASSERT(condition)                                                  \
  do {                                                                         \
    if (!(condition)) cusim::assertion_failed(#condition, __FILE__, __LINE__); \
  } while (0)

#endif

}  // namespace dev
