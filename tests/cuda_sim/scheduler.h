// Threads, warps and blocks of the launch in progress, and who runs next. Part of runtime.cpp.
#pragma once

#include "fiber.h"

#include <algorithm>
#include <cstdarg>
#include <deque>
#include <map>
#include <memory>
#include <string>

#include <pthread.h>

extern "C" __attribute__((weak)) char __executable_start[], end[];  // of the linker: the program in memory

namespace cusim {
namespace {

constexpr std::size_t static_shared_limit = 48 * 1024;  // of CUDA, for __shared__ arrays
constexpr std::size_t red_zone = 32;
constexpr std::size_t max_shared_arrays = 64;
// ThreadSanitizer knows about 8k contexts. More threads than this in one launch share them, and a race
// between two that share one goes unseen.
constexpr std::size_t tsan_contexts = 4000;

// ---- threads, warps, blocks ----

struct Block;

struct Site {
  const char* file = nullptr;
  int line = 0;
};

enum class State { runnable, at_block_barrier, at_warp_operation, done };

struct Fiber {
  Context context;
  char* stack = nullptr;
  Block* block = nullptr;
  dim3 index;
  int linear = 0;
  State state = State::runnable;
  Site site;
  std::size_t runnable_slot = 0;
  std::uint64_t result = 0;
  bool cancelled = false;
  void* tsan_fiber = nullptr;
  void* asan_fake_stack = nullptr;
};

struct WarpOperation {  // lanes waiting for one another under one mask; mask 0: not in use
  unsigned mask = 0, arrived = 0;
  WarpOp op = WarpOp::sync;
  int width = 32;
  std::uint64_t value[32];
  int argument[32];
  Fiber* fiber[32];
};

struct Warp {
  unsigned present = 0, exited = 0;
  WarpOperation pending[32];  // a lane is in at most one
  char order[32];             // what __syncwarp releases and acquires, by the lowest lane of the mask
};

struct Barrier {
  int arrived = 0, trues = 0;
  unsigned generation = 0;
  BlockOp op = BlockOp::sync;
  Site site;
  char order[2];  // one address a parity: a late leaver must not acquire the next generation
};

struct SharedArray {
  const void* site;
  char* data;
};

// Once the block has started nothing here allocates or is copied as a whole: ThreadSanitizer sees
// malloc, free, memcpy and memset even from a file that is not instrumented, and would report races.
struct Block {
  dim3 index;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  int live = 0, exited = 0;
  char* arena = nullptr;
  std::size_t arena_used = 0, static_used = 0, dynamic_bytes = 0;
  SharedArray arrays[max_shared_arrays];
  std::size_t array_count = 0;
};

struct Cancelled {};  // unwinds a fiber after a failure

struct Launch {
  Device* device = nullptr;
  Config config;
  dim3 grid, block;
  const Call* call = nullptr;
  std::size_t dynamic_bytes = 0;
  std::uint64_t random = 0, yields = 0;
  std::vector<Fiber*> runnable;
  std::vector<std::unique_ptr<Block>> resident;
  std::vector<std::uint32_t> order;  // blocks not yet started, last first
  std::size_t tsan_fresh = 0;        // contexts of tsan_pool that this launch has taken
  std::deque<void*> tsan_free;       // those whose thread has exited
  Context scheduler;
  void* scheduler_tsan = nullptr;
  void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_bytes = 0;
  void* scheduler_fake_stack = nullptr;
  Fiber* current = nullptr;
  std::string failure;
  char started[1], finished[1];  // addresses that order host and kernel
};

Launch* active = nullptr;
std::vector<void*> tsan_pool;

// ---- device memory ----

struct Allocation {
  std::size_t bytes;
  bool sparse;
};
std::map<char*, Allocation> allocations;
std::map<char*, std::size_t> released;  // while work was queued: freed once that has run
std::map<char*, std::size_t> gaps;      // between the arrays that were cut from one allocation
std::vector<Device*> waiting;           // streams with queued work
std::uint64_t host_random = 1;          // of begin(): grid sizes, the order between streams

std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

std::uint32_t random_below(std::uint64_t bound) {  // xorshift64*
  std::uint64_t& x = active->random;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  return static_cast<std::uint32_t>(((x * 0x2545f4914f6cdd1dull) >> 32) * bound >> 32);
}

// ---- failure ----

__attribute__((format(printf, 1, 2))) std::string text(const char* format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

std::string where(const Fiber& f) {
  const dim3& b = f.block->index;
  std::string place =
      text("block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, f.index.x, f.index.y, f.index.z);
  return f.site.file ? place + text(" at %s:%d", f.site.file, f.site.line) : place;
}

// What the first threads are waiting for, for deadlock and livelock reports.
std::string waiting_threads() {
  static const char* const names[] = {"running", "waits at a block barrier", "waits in a warp operation",
                                      "has exited"};
  std::string report;
  int shown = 0;
  for (const auto& block : active->resident)
    for (const auto& fiber : block->fibers)
      if (shown < 8 && fiber->state != State::done) {
        report += "\n  " + where(*fiber) + " " + names[static_cast<int>(fiber->state)];
        ++shown;
      }
  return report;
}

void set_failure(const std::string& message) {
  if (active->failure.empty())
    active->failure =
        "cusim: " + message +
        text("\n  seed %llu, %d resident blocks", static_cast<unsigned long long>(active->config.seed),
             active->config.resident_blocks);
}

[[noreturn]] void cancel(Fiber& self) {
  self.cancelled = true;
  throw Cancelled{};
}

[[noreturn]] void fail(const std::string& message) {
  set_failure(message + "\n  in " + where(*active->current));
  cancel(*active->current);
}

// ---- scheduling ----

void make_runnable(Fiber* f) {
  f->state = State::runnable;
  f->runnable_slot = active->runnable.size();
  active->runnable.push_back(f);
}

void remove_runnable(Fiber* f) {
  Fiber* last = active->runnable.back();
  active->runnable[f->runnable_slot] = last;
  last->runnable_slot = f->runnable_slot;
  active->runnable.pop_back();
}

void enter(Fiber* f) {
  active->current = f;
  threadIdx = f->index;
  blockIdx = f->block->index;
#if CUSIM_TSAN
  __tsan_switch_to_fiber(f->tsan_fiber, 1);  // 1: a switch orders nothing
#endif
}

// From the scheduler into a fiber, until some fiber comes back.
void resume(Fiber* f) {
  Launch& l = *active;
  enter(f);
#if CUSIM_ASAN
  __sanitizer_start_switch_fiber(&l.scheduler_fake_stack, f->stack, stack_bytes);
#endif
  Context::swap(l.scheduler, f->context);
#if CUSIM_ASAN
  __sanitizer_finish_switch_fiber(l.scheduler_fake_stack, nullptr, nullptr);
#endif
  l.current = nullptr;
}

// From a fiber back to the scheduler; a finished one never returns.
void to_scheduler(Fiber* self, bool finished) {
  Launch& l = *active;
#if CUSIM_TSAN
  __tsan_switch_to_fiber(l.scheduler_tsan, 1);
#endif
#if CUSIM_ASAN
  __sanitizer_start_switch_fiber(finished ? nullptr : &self->asan_fake_stack, l.scheduler_stack,
                                 l.scheduler_stack_bytes);
#else
  (void)finished;
#endif
  Context::swap(self->context, l.scheduler);
#if CUSIM_ASAN
  __sanitizer_finish_switch_fiber(self->asan_fake_stack, nullptr, nullptr);
#endif
}

// From one fiber straight into another.
void to_fiber(Fiber* self, Fiber* next) {
  enter(next);
#if CUSIM_ASAN
  __sanitizer_start_switch_fiber(&self->asan_fake_stack, next->stack, stack_bytes);
#endif
  Context::swap(self->context, next->context);
#if CUSIM_ASAN
  __sanitizer_finish_switch_fiber(self->asan_fake_stack, nullptr, nullptr);
#endif
}

// Gives the processor away. A fiber that still can run is resumed some time later; one that cannot,
// when another has made it runnable again.
void switch_away(Fiber* self) {
  Launch& l = *active;
  ++l.device->statistics.switches;
  if (l.runnable.empty()) {
    to_scheduler(self, false);
  } else {
    Fiber* next = l.runnable[random_below(l.runnable.size())];
    if (next != self) to_fiber(self, next);
  }
  if (!l.failure.empty() && !self->cancelled) cancel(*self);
}

void count_yield() {
  Launch& l = *active;
  if (++l.yields > l.config.max_yields)
    fail(text("livelock: %llu yields and no end", static_cast<unsigned long long>(l.config.max_yields)) +
         waiting_threads());
}

void thread_exits(Fiber* self);

void fiber_entry() {
  Fiber* self = active->current;
#if CUSIM_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  tsan_acquire(active->started);
  if (active->failure.empty()) {
    try {
      active->call->run();
    } catch (const Cancelled&) {
    } catch (const std::exception& e) {
      set_failure(std::string("the kernel threw: ") + e.what() + "\n  in " + where(*self));
    }
  }
  thread_exits(self);
  tsan_release(active->finished);
  to_scheduler(self, true);
  std::abort();  // a finished fiber is never resumed
}

// Barriers and warp operations that wait for a thread that has left can never end.
void thread_exits(Fiber* self) {
  Block& b = *self->block;
  Warp& w = b.warps[static_cast<std::size_t>(self->linear / 32)];
  const unsigned bit = 1u << (self->linear % 32);
  self->state = State::done;
  remove_runnable(self);
  w.exited |= bit;
  ++b.exited;
  --b.live;
  if (!active->failure.empty()) return;
  if (b.barrier.arrived > 0)
    set_failure(text("deadlock: %d threads wait at the block barrier of %s:%d, which ", b.barrier.arrived,
                     b.barrier.site.file, b.barrier.site.line) +
                where(*self) + " left without reaching");
  for (const WarpOperation& op : w.pending)
    if (op.mask & bit)
      set_failure(text("deadlock: a warp operation under mask 0x%08x waits for ", op.mask) + where(*self) +
                  ", which has exited");
}

// ---- blocks ----

void* tsan_context() {
#if CUSIM_TSAN
  Launch& l = *active;
  if (tsan_pool.size() < tsan_contexts && l.tsan_fresh == tsan_pool.size()) {
    ++l.tsan_fresh;
    tsan_pool.push_back(__tsan_create_fiber(0));
    return tsan_pool.back();
  }
  if (l.tsan_fresh < tsan_pool.size()) return tsan_pool[l.tsan_fresh++];
  void* context = l.tsan_free.front();  // the longest unused: the least likely to hide a race
  l.tsan_free.pop_front();
  return context;
#else
  return nullptr;
#endif
}

void start_block(std::uint32_t linear) {
  Launch& l = *active;
  auto block = std::make_unique<Block>();
  const int threads = static_cast<int>(l.block.x * l.block.y * l.block.z);
  block->index = {linear % l.grid.x, linear / l.grid.x % l.grid.y, linear / l.grid.x / l.grid.y};
  block->warps.resize(static_cast<std::size_t>(threads + 31) / 32);
  block->live = threads;
  block->dynamic_bytes = l.dynamic_bytes;
  block->arena = arenas.take();
  fill_poison(block->arena, l.dynamic_bytes);
  asan_poison(block->arena + l.dynamic_bytes, arena_bytes - l.dynamic_bytes);
  block->arena_used = l.dynamic_bytes + red_zone;
  for (int t = 0; t < threads; ++t) {
    auto fiber = std::make_unique<Fiber>();
    const unsigned u = static_cast<unsigned>(t);
    fiber->block = block.get();
    fiber->linear = t;
    fiber->index = {u % l.block.x, u / l.block.x % l.block.y, u / l.block.x / l.block.y};
    fiber->stack = stacks.take();
    fiber->context.prepare(fiber->stack, fiber_entry);
    fiber->tsan_fiber = tsan_context();
    block->warps[static_cast<std::size_t>(t / 32)].present |= 1u << (t % 32);
    make_runnable(fiber.get());
    block->fibers.push_back(std::move(fiber));
  }
  tsan_release(l.started);  // again for each block: its stacks and arena were written just now
  l.resident.push_back(std::move(block));
}

void retire(Block& block) {
  for (auto& fiber : block.fibers) {
    stacks.give(fiber->stack);
#if CUSIM_TSAN
    active->tsan_free.push_back(fiber->tsan_fiber);
#endif
  }
  arenas.give(block.arena);
  active->device->statistics.threads += block.fibers.size();
}

void retire_finished_blocks() {
  auto& resident = active->resident;
  for (std::size_t i = 0; i < resident.size();) {
    if (resident[i]->live == 0) {
      retire(*resident[i]);
      resident.erase(resident.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

// After a failure: resumes every fiber once, so that it unwinds and its destructors run.
void unwind_all() {
  for (std::size_t b = 0; b < active->resident.size(); ++b)
    for (auto& fiber : active->resident[b]->fibers)
      while (fiber->state != State::done) {
        if (fiber->state != State::runnable) make_runnable(fiber.get());
        resume(fiber.get());
      }
  active->order.clear();
}

// Nobody can run: either all threads of some block have exited, or nobody ever will.
void run_until_done() {
  Launch& l = *active;
  while (!l.order.empty() || !l.resident.empty()) {
    while (l.resident.size() < static_cast<std::size_t>(l.config.resident_blocks) && !l.order.empty()) {
      start_block(l.order.back());
      l.order.pop_back();
    }
    if (l.runnable.empty()) {
      set_failure("deadlock: no thread can run" + waiting_threads());
    } else {
      resume(l.runnable[random_below(l.runnable.size())]);
    }
    if (!l.failure.empty()) unwind_all();
    retire_finished_blocks();
  }
}

std::int64_t launch_bound(const void* kernel);

std::string launch_error(const Config& c, Extent g, Extent b, std::size_t shared_bytes, const void* kernel) {
  const auto wrong = [](const Extent& e, std::int64_t x, std::int64_t y, std::int64_t z) {
    return e.x < 1 || e.x > x || e.y < 1 || e.y > y || e.z < 1 || e.z > z;
  };
  if (wrong(g, 0x7fffffff, 65535, 65535))
    return text(
        "launch refused: grid %lldx%lldx%lld, CUDA takes 1..2147483647 x 1..65535 x "
        "1..65535",
        static_cast<long long>(g.x), static_cast<long long>(g.y), static_cast<long long>(g.z));
  if (wrong(b, 1024, 1024, 64) || b.x * b.y * b.z > 1024)
    return text(
        "launch refused: block %lldx%lldx%lld, CUDA takes 1..1024 x 1..1024 x 1..64 "
        "and at most 1024 threads",
        static_cast<long long>(b.x), static_cast<long long>(b.y), static_cast<long long>(b.z));
  if (const std::int64_t bound = launch_bound(kernel); b.x * b.y * b.z > bound)
    return text("launch refused: %lld threads a block, the kernel is bound to %lld",
                static_cast<long long>(b.x * b.y * b.z), static_cast<long long>(bound));
  if (shared_bytes > c.dynamic_shared_limit)
    return text("launch refused: %zu bytes of dynamic shared memory, the limit is %zu", shared_bytes,
                c.dynamic_shared_limit);
#if CUSIM_TSAN
  if (std::min<std::int64_t>(c.resident_blocks, g.x * g.y * g.z) * b.x * b.y * b.z >
      static_cast<std::int64_t>(tsan_contexts))
    return text(
        "more than %zu threads alive at once under ThreadSanitizer: lower "
        "Config::resident_blocks or the block size",
        tsan_contexts);
#endif
  if (g.x * g.y * g.z > 10000000)
    return text("grid of %lld blocks is too large to simulate", static_cast<long long>(g.x * g.y * g.z));
  return "";
}

// The bound that DEV_KERNEL left before the kernel's entry; 1024, what CUDA takes at most, without one.
#if defined(__clang__)
extern "C" __attribute__((weak)) const std::uintptr_t __start___patchable_function_entries[];
extern "C" __attribute__((weak)) const std::uintptr_t __stop___patchable_function_entries[];
#endif

std::int64_t launch_bound(const void* kernel) {
  std::int64_t bound = 1024;
#if defined(__clang__)
#if defined(__aarch64__)
  constexpr std::uintptr_t filler = 4;  // bytes of one instruction that does nothing
#else
  constexpr std::uintptr_t filler = 1;
#endif
  const auto entry = reinterpret_cast<std::uintptr_t>(kernel);
  for (const auto* e = __start___patchable_function_entries; e != __stop___patchable_function_entries; ++e) {
    // a sanitizer may put 8 bytes of its own in between; bounds are whole warps
    const std::uintptr_t found = (entry - *e) / filler / 32 * 32;
    if (*e < entry && found >= 32 && found < static_cast<std::uintptr_t>(bound))
      bound = static_cast<std::int64_t>(found);
  }
#else
  (void)kernel;
#endif
  return bound;
}

// ---- what is device memory ----

template <class Map>
typename Map::const_iterator at_or_before(const Map& map, const void* p) {
  auto next = map.upper_bound(const_cast<char*>(static_cast<const char*>(p)));
  return next == map.begin() ? map.end() : --next;
}

// Whether [p, p + bytes) lies in one live allocation; the address after its last byte belongs to it too.
bool on_device(const void* p, std::size_t bytes) {
  const auto found = at_or_before(allocations, p);
  if (found == allocations.end()) return false;
  const char* begin = found->first;
  return static_cast<const char*>(p) + bytes <= begin + std::max<std::size_t>(found->second.bytes, 1);
}

bool was_released(const void* p) {
  const auto found = at_or_before(released, p);
  return found != released.end() && static_cast<const char*>(p) < found->first + found->second;
}

// Whether a word found in an argument is surely the host's: its stack, its program, or its heap.
bool on_host(const void* p) {
  const char* at = static_cast<const char*>(p);
  static char *stack = nullptr, *stack_end = nullptr;
  if (stack == nullptr) {
    pthread_attr_t attributes;
    void* base;
    std::size_t bytes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &base, &bytes);
    pthread_attr_destroy(&attributes);
    stack = static_cast<char*>(base);
    stack_end = stack + bytes;
  }
  if ((at >= stack && at < stack_end) || (at >= __executable_start && at < end)) return true;
#if CUSIM_ASAN || CUSIM_TSAN
  return __sanitizer_get_ownership(p) != 0;
#else
  return false;
#endif
}

// What is wrong with the arguments of a launch, or "". A pointer must be null or device memory; in a struct
// every word that looks like a host address, or like memory freed since, is taken for one.
std::string argument_error(const Call& call) {
  int number = 0;
  for (const Argument& a : call.arguments) {
    ++number;
    for (std::size_t offset = 0; offset + sizeof(void*) <= a.bytes; offset += sizeof(void*)) {
      const void* p;
      std::memcpy(&p, static_cast<const char*>(a.at) + offset, sizeof p);
      if (p == nullptr || on_device(p, 0)) continue;
      // a small integer beside padding that still holds half of some pointer
      if (!a.pointer && (reinterpret_cast<std::uintptr_t>(p) & 0xffffffffu) < 65536) continue;
      if (was_released(p))
        return text(
            "argument %d of the kernel points to %p, which was freed after the launch and before it ran",
            number, p);
      if (a.pointer || on_host(p))
        return text("argument %d of the kernel is no device memory: %p", number, p);
    }
  }
  return "";
}

// Device memory is reachable while this lives, but for the gaps between cut arrays.
class DeviceMemoryOpen {
 public:
  DeviceMemoryOpen() {
    for (auto& a : allocations)
      if (!a.second.sparse) asan_unpoison(a.first, a.second.bytes);
    for (auto& gap : gaps) asan_poison(gap.first, gap.second);
  }
  ~DeviceMemoryOpen() {
    for (auto& a : allocations)
      if (!a.second.sparse) asan_poison(a.first, a.second.bytes);
  }
};

void require_host(const char* call) {
  if (active) throw Error(std::string("cusim: ") + call + " called from inside a kernel");
}

void find_host_stack(Launch& l) {  // for __sanitizer_start_switch_fiber
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &l.scheduler_stack, &l.scheduler_stack_bytes);
  pthread_attr_destroy(&attributes);
}

Fiber* current_thread(const char* call) {
  if (!active || !active->current) throw Error(std::string("cusim: ") + call + " called outside a kernel");
  return active->current;
}

}  // namespace
}  // namespace cusim
