// The kernel-facing half of the CUDA simulator: CUDA's built-in names as host C++.
//
// Kernels include native/device.h, never this file. Each CUDA thread is a fiber of one OS thread; a
// seeded scheduler (runtime.cpp) switches at the yield points below. This header is compiled with the
// sanitizers of the test; the scheduler never with ThreadSanitizer. So everything here that touches
// scheduler state is a call into runtime.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// Where in the kernel a yield point stands: trailing default arguments of every simulated built-in.
#define CUSIM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cusim {

// How one launch runs. The same values replay the same interleaving.
struct Config {
  std::uint64_t seed = 1;
  int resident_blocks = 4;                       // blocks alive at once: what exposes wrong grid barriers
  int yield_percent = 25;                        // chance to switch at a yield point
  std::uint64_t max_yields = 20000000;           // more than this in one launch is reported as a livelock
  std::size_t dynamic_shared_limit = 99 * 1024;  // the least of sm_80 to sm_120
  // Runs every launch at once and takes any memory for the device's: for a Python module whose tensors stand
  // in the place of device memory. Test programs leave it off.
  bool borrowed_memory = false;
};

struct Statistics {
  std::uint64_t launches = 0, threads = 0, switches = 0;
  std::uint64_t operations = 0;  // of the stream: launches, fills, copies in either direction
  std::uint64_t host_waits = 0;  // read_back calls: each is a synchronisation on a device
};

// Stands for a device and a stream. A null pointer where one is expected means default_device().
// Launches, fills and copies are queued: they run when somebody waits for the stream (wait, read_back,
// Buffer::host), in order on one stream and in a random order between two, as torch's streams do.
class Device {
 public:
  Config config;
  Statistics statistics;

  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();  // forgets what was never waited for

  void wait();
  void finish() noexcept;  // as wait(); errors are another's to find
  std::size_t queued() const { return queue_.size(); }

 private:
  friend class Event;
  friend void enqueue(Device* device, std::function<void()> work);
  friend void run_first(Device* device);
  std::vector<std::function<void()>> queue_;
  std::shared_ptr<std::uint64_t> done_ = std::make_shared<std::uint64_t>(0);  // operations that have run
};

// A place in the order of a stream: behind what was queued there when it was last recorded.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Device* device);
  void hold_back(Device* device);  // what is queued there from now on runs behind it
  void wait();

 private:
  struct Place {
    Device* device = nullptr;
    std::uint64_t at = 0;
    std::shared_ptr<const std::uint64_t> done;  // outlives the device
    void reach() const;
  };
  Place place_;
};

Device& default_device();
void wait_for_all();  // every stream, as cudaDeviceSynchronize

// Begins one run of a test: what the device's fresh memory holds (0xCD or 0x3C) and how many blocks a
// grid-stride launch gets follow from the seed.
void begin(std::uint64_t seed);

// Streaming multiprocessors that launchers see when they size workspaces.
constexpr int multiprocessors = 2;
// Blocks that a grid-stride launch may have: 1 to 3, so that small arrays need a second pass.
int most_blocks();

// A launch that a device would refuse, a deadlock, a livelock, a misuse of a warp or block operation,
// a failed DEV_ASSERT: the text says what, and in which block, thread, file and line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Extent {
  std::int64_t x, y, z;
};

// Memory that only kernels and copies may touch: under ASan it is poisoned while host code runs. New
// memory is filled with 0xCD, as a device does not clear it either.
void* allocate(std::size_t bytes);
void release(void* memory);  // while work is queued, the memory stays unusable until that has run

// Address space of which only what is touched takes memory: for indices beyond 32 bits. Holds zeros, is not
// poisoned while host code runs and has no red zones.
void* allocate_sparse(std::size_t bytes);

// The array [start, start + bytes) was cut from an allocation: the `gap` bytes behind it belong to nobody.
void cut(void* start, std::size_t bytes, std::size_t gap);

void fill_bytes(Device* device, void* target, int byte, std::size_t bytes);
void copy_on_device(Device* device, void* target, const void* source, std::size_t bytes);
void read_back(Device* device, void* host, const void* source, std::size_t bytes);
void upload(void* target, const void* host, std::size_t bytes);
// Queued: `host` is read when the stream comes so far.
void upload_later(Device* device, void* target, const void* host, std::size_t bytes);

// A device array owned by a test.
template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable<T>::value, "device arrays hold plain data");

 public:
  explicit Buffer(std::size_t count) : count_(count) { data_ = static_cast<T*>(allocate(count * sizeof(T))); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    upload(data_, values.data(), count_ * sizeof(T));
  }
  Buffer(std::size_t count, T value) : Buffer(std::vector<T>(count, value)) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cusim::release(data_); }

  T* data() { return data_; }
  std::size_t size() const { return count_; }

  std::vector<T> host() const {
    std::vector<T> values(count_);
    wait_for_all();  // a test's look at the result is not counted as a wait of the launcher
    Device scratch;
    read_back(&scratch, values.data(), data_, count_ * sizeof(T));
    return values;
  }

 private:
  std::size_t count_;
  T* data_;
};

// A device array of which a test touches a few elements, however many it has.
template <class T>
class Sparse {
 public:
  explicit Sparse(std::size_t count) : data_(static_cast<T*>(allocate_sparse(count * sizeof(T)))) {}
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  ~Sparse() { cusim::release(data_); }

  T* data() { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }  // from the host, with nothing queued

 private:
  T* data_;
};

// ---- calls from kernels into the scheduler ----

enum class WarpOp : int { sync, shuffle, shuffle_up, shuffle_down, shuffle_xor, ballot, match };
enum class BlockOp : int { sync, count, all, any };

void yield_point(const char* file, int line);
void sleep(const char* file, int line);
int block_barrier(BlockOp op, int predicate, const char* file, int line);
std::uint64_t warp_collective(WarpOp op, unsigned mask, std::uint64_t value, int argument, int width,
                              const char* file, int line);
void* shared_array(const void* site, std::size_t bytes, std::size_t alignment);
void* dynamic_shared();
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

// One argument of a launch, in the copy that the launch keeps.
struct Argument {
  const void* at;
  std::size_t bytes;
  bool pointer;
};

// A launch as the queue keeps it; `kernel` is the address that carries the bound of DEV_KERNEL.
struct Call {
  virtual ~Call() = default;
  virtual void run() const = 0;
  const void* kernel = nullptr;
  std::vector<Argument> arguments;
};

void launch_call(Device* device, Extent grid, Extent block, std::size_t shared_bytes,
                 std::shared_ptr<const Call> call);

template <class... P>
void launch(Device* device, Extent grid, Extent block, std::size_t shared_bytes, void (*kernel)(P...),
            P... arguments) {
  struct KernelCall : Call {
    void (*function)(P...);
    std::tuple<P...> values;
    KernelCall(void (*f)(P...), P... a) : function(f), values(a...) {}
    void run() const override { std::apply(function, values); }
  };
  const auto call = std::make_shared<KernelCall>(kernel, arguments...);
  call->kernel = reinterpret_cast<const void*>(kernel);
  std::apply(
      [&](const P&... value) {
        call->arguments = {Argument{&value, sizeof(P), std::is_pointer<P>::value}...};
      },
      call->values);
  launch_call(device, grid, block, shared_bytes, call);
}

template <class T>
std::uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "warp operations move at most 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cusim

// ---- CUDA's built-in names ----

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Set by the scheduler whenever it resumes a thread; kernels only read them.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads(CUSIM_SITE) { cusim::block_barrier(cusim::BlockOp::sync, 0, file, line); }
inline int __syncthreads_count(int predicate, CUSIM_SITE) {
  return cusim::block_barrier(cusim::BlockOp::count, predicate, file, line);
}
inline int __syncthreads_and(int predicate, CUSIM_SITE) {
  return cusim::block_barrier(cusim::BlockOp::all, predicate, file, line);
}
inline int __syncthreads_or(int predicate, CUSIM_SITE) {
  return cusim::block_barrier(cusim::BlockOp::any, predicate, file, line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, CUSIM_SITE) {
  cusim::warp_collective(cusim::WarpOp::sync, mask, 0, 0, 32, file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUSIM_SITE) {
  return cusim::from_bits<T>(
      cusim::warp_collective(cusim::WarpOp::shuffle, mask, cusim::to_bits(value), lane, width, file, line));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUSIM_SITE) {
  return cusim::from_bits<T>(cusim::warp_collective(cusim::WarpOp::shuffle_up, mask, cusim::to_bits(value),
                                                    static_cast<int>(delta), width, file, line));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUSIM_SITE) {
  return cusim::from_bits<T>(cusim::warp_collective(cusim::WarpOp::shuffle_down, mask, cusim::to_bits(value),
                                                    static_cast<int>(delta), width, file, line));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUSIM_SITE) {
  return cusim::from_bits<T>(cusim::warp_collective(cusim::WarpOp::shuffle_xor, mask, cusim::to_bits(value),
                                                    lane_mask, width, file, line));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUSIM_SITE) {
  return static_cast<unsigned>(
      cusim::warp_collective(cusim::WarpOp::ballot, mask, predicate ? 1u : 0u, 0, 32, file, line));
}
inline int __any_sync(unsigned mask, int predicate, CUSIM_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CUSIM_SITE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, CUSIM_SITE) {
  return static_cast<unsigned>(
      cusim::warp_collective(cusim::WarpOp::match, mask, cusim::to_bits(value), 0, 32, file, line));
}

// ---- relaxed atomics, as on the device ----

namespace cusim {

template <class T, class F>
T atomic_update(T* p, F next, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA atomics are 4 or 8 bytes wide");
  yield_point(file, line);
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  Bits* word = reinterpret_cast<Bits*>(p);
  Bits seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  for (;;) {
    const T old = from_bits<T>(seen);
    const Bits wanted = static_cast<Bits>(to_bits<T>(next(old)));
    if (__atomic_compare_exchange_n(word, &seen, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return old;
  }
}

// Integer addition that wraps as the device's does; floating point adds.
template <class T>
T wrapping_add(T a, T b) {
  if constexpr (std::is_integral<T>::value) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  } else {
    return a + b;
  }
}

template <class T>
struct identity {
  using type = T;
};
template <class T>
using same = typename identity<T>::type;  // no deduction from this argument

}  // namespace cusim

template <class T>
T atomicAdd(T* p, cusim::same<T> v, CUSIM_SITE) {
  return cusim::atomic_update(p, [v](T old) { return cusim::wrapping_add(old, v); }, file, line);
}
template <class T>
T atomicSub(T* p, cusim::same<T> v, CUSIM_SITE) {
  static_assert(std::is_integral<T>::value, "CUDA has atomicSub for integers only");
  using U = std::make_unsigned_t<T>;
  return cusim::atomic_update(
      p, [v](T old) { return static_cast<T>(static_cast<U>(old) - static_cast<U>(v)); }, file, line);
}
template <class T>
T atomicMin(T* p, cusim::same<T> v, CUSIM_SITE) {
  static_assert(std::is_integral<T>::value, "CUDA has atomicMin for integers only");
  return cusim::atomic_update(p, [v](T old) { return v < old ? v : old; }, file, line);
}
template <class T>
T atomicMax(T* p, cusim::same<T> v, CUSIM_SITE) {
  static_assert(std::is_integral<T>::value, "CUDA has atomicMax for integers only");
  return cusim::atomic_update(p, [v](T old) { return old < v ? v : old; }, file, line);
}
template <class T>
T atomicOr(T* p, cusim::same<T> v, CUSIM_SITE) {
  return cusim::atomic_update(p, [v](T old) { return static_cast<T>(old | v); }, file, line);
}
template <class T>
T atomicAnd(T* p, cusim::same<T> v, CUSIM_SITE) {
  return cusim::atomic_update(p, [v](T old) { return static_cast<T>(old & v); }, file, line);
}
template <class T>
T atomicXor(T* p, cusim::same<T> v, CUSIM_SITE) {
  return cusim::atomic_update(p, [v](T old) { return static_cast<T>(old ^ v); }, file, line);
}
template <class T>
T atomicExch(T* p, cusim::same<T> v, CUSIM_SITE) {
  return cusim::atomic_update(p, [v](T) { return v; }, file, line);
}
template <class T>
T atomicCAS(T* p, cusim::same<T> compare, cusim::same<T> v, CUSIM_SITE) {
  cusim::yield_point(file, line);
  __atomic_compare_exchange_n(p, &compare, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}
