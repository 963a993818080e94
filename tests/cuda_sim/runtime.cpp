// The scheduler of the CUDA simulator: fibers (fiber.h), who runs next (scheduler.h), and here the
// barriers, warp operations, device memory and the launch itself.
//
// Compile this file WITHOUT -fsanitize=thread, and with -DCUSIM_TSAN=1 when the kernels have it: an
// instrumented scheduler is seen as a party to every race. With -fsanitize=address it is instrumented
// like the rest. What each sanitizer must be told is in the functions named tsan_* and asan_*.
#include "scheduler.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cusim {

// ---- calls from kernels ----

void yield_point(const char* file, int line) {
  Fiber* self = current_thread("an atomic operation");
  if (self->cancelled) return;
  self->site = {file, line};
  count_yield();
  if (static_cast<int>(random_below(100)) < active->config.yield_percent) switch_away(self);
}

void sleep(const char* file, int line) {
  Fiber* self = current_thread("dev::pause");
  if (self->cancelled) return;
  self->site = {file, line};
  count_yield();
  switch_away(self);
}

void assertion_failed(const char* condition, const char* file, int line) {
  Fiber* self = current_thread("DEV_ASSERT");
  self->site = {file, line};
  fail(std::string("assertion failed: ") + condition);
}

void* shared_array(const void* site, std::size_t bytes, std::size_t alignment) {
  Fiber* self = current_thread("DEV_SHARED");
  Block& b = *self->block;
  for (std::size_t i = 0; i < b.array_count; ++i)
    if (b.arrays[i].site == site) return b.arrays[i].data;
  b.static_used += bytes;
  if (b.static_used > static_shared_limit)
    fail(text("%zu bytes of DEV_SHARED arrays, CUDA takes at most %zu", b.static_used, static_shared_limit));
  if (b.array_count == max_shared_arrays) fail("too many DEV_SHARED arrays in one block");
  const std::size_t unit = std::max<std::size_t>(alignment, 32);
  char* array = b.arena + (b.arena_used + unit - 1) / unit * unit;
  asan_unpoison(array, bytes);
  fill_poison(array, bytes);
  b.arena_used = static_cast<std::size_t>(array - b.arena) + bytes + red_zone;
  b.arrays[b.array_count++] = {site, array};
  return array;
}

void* dynamic_shared() {
  Fiber* self = current_thread("DEV_DYNAMIC_SHARED");
  if (self->block->dynamic_bytes == 0)
    fail("DEV_DYNAMIC_SHARED in a launch with 0 bytes of dynamic shared memory");
  return self->block->arena;
}

int block_barrier(BlockOp op, int predicate, const char* file, int line) {
  Fiber* self = current_thread("__syncthreads");
  if (self->cancelled) return 0;
  self->site = {file, line};
  count_yield();
  Block& block = *self->block;
  Barrier& b = block.barrier;
  if (block.exited)
    fail(text("deadlock: block barrier reached after %d threads of the block have exited", block.exited));
  if (b.arrived == 0) {
    b.op = op;
    b.site = self->site;
    b.trues = 0;
  } else if (b.op != op || b.site.line != line || std::strcmp(b.site.file, file) != 0) {
    fail(
        text("deadlock: divergent block barrier, %d threads wait at %s:%d and this one at "
             "another",
             b.arrived, b.site.file, b.site.line));
  }
  char* order = &b.order[b.generation % 2];
  tsan_release(order);
  b.trues += predicate != 0;
  if (++b.arrived < block.live) {
    self->state = State::at_block_barrier;
    remove_runnable(self);
    switch_away(self);
  } else {
    const int all = block.live;
    const int trues = b.trues;
    const int result = op == BlockOp::count ? trues : op == BlockOp::all ? trues == all : trues != 0;
    b.arrived = 0;
    ++b.generation;
    for (auto& f : block.fibers)
      if (f->state == State::at_block_barrier) {
        f->result = static_cast<std::uint64_t>(result);
        make_runnable(f.get());
      }
    self->result = static_cast<std::uint64_t>(result);
    switch_away(self);  // so that the last to arrive is not always the first to go on
  }
  tsan_acquire(order);
  return static_cast<int>(self->result);
}

namespace {

// The lane whose value a shuffle reads, as in the CUDA programming guide; itself when out of range.
int source_lane(WarpOp op, int lane, int argument, int width) {
  const int segment = lane & ~(width - 1);
  int from = lane;
  if (op == WarpOp::shuffle) from = segment + (argument & (width - 1));
  if (op == WarpOp::shuffle_up) from = lane - argument;
  if (op == WarpOp::shuffle_down) from = lane + argument;
  if (op == WarpOp::shuffle_xor) from = lane ^ argument;
  if (op == WarpOp::shuffle_up && from < segment) return lane;
  if (op == WarpOp::shuffle_down && from >= segment + width) return lane;
  if (op == WarpOp::shuffle_xor && from >= segment + width) return lane;
  return from;
}

void finish_warp_operation(const WarpOperation& o) {
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (o.mask >> lane & 1u && o.value[lane]) ballot |= 1u << lane;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(o.mask >> lane & 1u)) continue;
    std::uint64_t result = 0;
    if (o.op == WarpOp::ballot) {
      result = ballot;
    } else if (o.op == WarpOp::match) {
      for (int other = 0; other < 32; ++other)
        if (o.mask >> other & 1u && o.value[other] == o.value[lane]) result |= 1ull << other;
    } else if (o.op != WarpOp::sync) {
      const int from = source_lane(o.op, lane, o.argument[lane], o.width);
      if (!(o.mask >> from & 1u)) {
        active->current->site = o.fiber[lane]->site;
        fail(text("shuffle: lane %d reads lane %d, which is not in mask 0x%08x", lane, from, o.mask));
      }
      result = o.value[from];
    }
    o.fiber[lane]->result = result;
  }
}

// The operation that waits under this mask, else a free place.
WarpOperation* find_operation(Warp& w, unsigned mask) {
  WarpOperation* unused = nullptr;
  for (WarpOperation& o : w.pending) {
    if (o.mask == mask) return &o;
    if (o.mask == 0 && !unused) unused = &o;
  }
  return unused;
}

// Every lane acquires now, in its own name: one that acquired only when it next runs could take in
// what the others have done since.
void tsan_acquire_for(const WarpOperation& o, void* order) {
#if CUSIM_TSAN
  for (int lane = 0; lane < 32; ++lane)
    if (o.mask >> lane & 1u) {
      __tsan_switch_to_fiber(o.fiber[lane]->tsan_fiber, 1);
      __tsan_acquire(order);
    }
  __tsan_switch_to_fiber(active->current->tsan_fiber, 1);
#else
  (void)o, (void)order;
#endif
}

}  // namespace

std::uint64_t warp_collective(WarpOp op, unsigned mask, std::uint64_t value, int argument, int width,
                              const char* file, int line) {
  Fiber* self = current_thread("a warp operation");
  if (self->cancelled) return 0;
  self->site = {file, line};
  count_yield();
  Warp& w = self->block->warps[static_cast<std::size_t>(self->linear / 32)];
  const int lane = self->linear % 32;
  if (!(mask >> lane & 1u)) fail(text("warp operation: lane %d is not in its own mask 0x%08x", lane, mask));
  if (mask & ~w.present)
    fail(
        text("warp operation: mask 0x%08x names lanes that this warp does not have (0x%08x "
             "exist)",
             mask, w.present));
  if (mask & w.exited)
    fail(text("warp operation: mask 0x%08x names lanes that have exited (0x%08x)", mask, w.exited));
  WarpOperation* pending = find_operation(w, mask);
  if (pending->arrived == 0) {
    pending->mask = mask;
    pending->op = op;
    pending->width = width;
  } else if (pending->op != op || pending->width != width) {
    fail(text("warp operation: lanes of mask 0x%08x execute different operations", mask));
  }
  pending->arrived |= 1u << lane;
  pending->value[lane] = value;
  pending->argument[lane] = argument;
  pending->fiber[lane] = self;
  // Only __syncwarp orders memory; shuffles and votes do not.
  char* order = &w.order[__builtin_ctz(mask)];
  if (op == WarpOp::sync) tsan_release(order);
  if (pending->arrived != mask) {
    self->state = State::at_warp_operation;
    remove_runnable(self);
  } else {
    finish_warp_operation(*pending);
    if (op == WarpOp::sync) tsan_acquire_for(*pending, order);
    for (int other = 0; other < 32; ++other)
      if (mask >> other & 1u && other != lane) make_runnable(pending->fiber[other]);
    pending->mask = pending->arrived = 0;
  }
  switch_away(self);
  return self->result;
}

// ---- streams ----

Device& default_device() {
  static Device device;
  return device;
}

namespace {

std::uint64_t host_draw(std::uint64_t bound) {
  host_random = mix(host_random);
  return host_random % bound;
}

void free_released() {
  for (auto& r : released) {
    asan_unpoison(r.first, r.second);
    std::free(r.first);
  }
  released.clear();
}

void forget(Device* device) {
  waiting.erase(std::remove(waiting.begin(), waiting.end(), device), waiting.end());
  if (waiting.empty()) free_released();
}

}  // namespace

void enqueue(Device* device, std::function<void()> work) {
  if (device == nullptr) device = &default_device();
  ++device->statistics.operations;
  if (device->config.borrowed_memory) return work();
  if (device->queue_.empty()) waiting.push_back(device);
  device->queue_.push_back(std::move(work));
}

// Runs what was queued first on a stream. After a failure nothing of that stream is left.
void run_first(Device* device) {
  std::function<void()> work = std::move(device->queue_.front());
  device->queue_.erase(device->queue_.begin());
  try {
    work();
  } catch (...) {
    *device->done_ += 1 + device->queue_.size();
    device->queue_.clear();
    forget(device);
    throw;
  }
  ++*device->done_;
  if (device->queue_.empty()) forget(device);
}

Device::~Device() {
  *done_ += queue_.size();
  queue_.clear();
  forget(this);
}

void Device::wait() {
  while (!queue_.empty()) run_first(this);
}

void Device::finish() noexcept {
  try {
    wait();
  } catch (...) {}
}

void Event::Place::reach() const {
  while (done && *done < at) run_first(device);
}

void Event::record(Device* device) {
  if (device == nullptr) device = &default_device();
  place_ = {device, *device->done_ + device->queue_.size(), device->done_};
}

void Event::hold_back(Device* device) {
  if (place_.done) enqueue(device, [place = place_] { place.reach(); });
}

void Event::wait() { place_.reach(); }

void wait_for_all() {
  while (!waiting.empty()) run_first(waiting[host_draw(waiting.size())]);
}

void begin(std::uint64_t seed) {
  poison = seed % 2 ? 0xCD : 0x3C;
  host_random = seed;
}

int most_blocks() { return 1 + static_cast<int>(host_draw(3)); }

// ---- device memory ----

void* allocate(std::size_t bytes) {
  require_host("allocate");
  // At least one byte, so that every array has an address of its own; aligned as a device does it.
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, bytes ? bytes : 1) != 0)
    throw Error(text("cusim: no memory for %zu bytes", bytes));
  std::memset(memory, poison, bytes ? bytes : 1);
  if (!bytes) asan_poison(memory, 1);
  allocations[static_cast<char*>(memory)] = {bytes, false};
  asan_poison(memory, bytes);
  return memory;
}

void* allocate_sparse(std::size_t bytes) {
  require_host("allocate_sparse");
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Error(text("cusim: no address space for %zu bytes", bytes));
  allocations[static_cast<char*>(memory)] = {bytes, true};
  return memory;
}

namespace {

void forget_gaps(char* begin, std::size_t bytes) {
  for (auto gap = gaps.lower_bound(begin); gap != gaps.end() && gap->first < begin + bytes;)
    gap = gaps.erase(gap);
}

}  // namespace

void release(void* memory) {
  const auto found = allocations.find(static_cast<char*>(memory));
  const auto [begin, allocation] = *found;
  allocations.erase(found);
  forget_gaps(begin, allocation.bytes);
  const std::size_t bytes = std::max<std::size_t>(allocation.bytes, 1);
  if (allocation.sparse) {
    munmap(begin, bytes);
  } else if (!waiting.empty()) {
    asan_poison(begin, bytes);
    released[begin] = bytes;
  } else {
    asan_unpoison(begin, bytes);
    std::free(begin);
  }
}

void cut(void* start, std::size_t bytes, std::size_t gap) {
  char* const array = static_cast<char*>(start);
  if (!on_device(array, 0)) return;  // borrowed memory
  const auto before = at_or_before(gaps, array);
  if (before != gaps.end() && before->first + before->second > array)
    gaps[before->first] = static_cast<std::size_t>(array - before->first);
  forget_gaps(array, bytes + gap);
  if (gap) gaps[array + bytes] = gap;
}

namespace {

void require_device(Device* device, const char* call, const void* memory, std::size_t bytes) {
  require_host(call);
  if ((device ? device : &default_device())->config.borrowed_memory || on_device(memory, bytes)) return;
  const char* fact =
      was_released(memory) ? "were freed before the device came to them" : "are no device memory";
  throw Error(text("cusim: %s: %zu bytes at %p %s", call, bytes, memory, fact));
}

}  // namespace

void fill_bytes(Device* device, void* target, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  require_device(device, "fill_bytes", target, bytes);
  enqueue(device, [=] {
    require_device(device, "fill_bytes", target, bytes);
    DeviceMemoryOpen open;
    std::memset(target, byte, bytes);
  });
}

void copy_on_device(Device* device, void* target, const void* source, std::size_t bytes) {
  if (bytes == 0) return;
  require_device(device, "copy_on_device", target, bytes);
  require_device(device, "copy_on_device", source, bytes);
  enqueue(device, [=] {
    require_device(device, "copy_on_device", target, bytes);
    require_device(device, "copy_on_device", source, bytes);
    DeviceMemoryOpen open;
    std::memcpy(target, source, bytes);
  });
}

void upload(void* target, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  require_device(nullptr, "upload", target, bytes);
  DeviceMemoryOpen open;
  std::memcpy(target, host, bytes);
}

void upload_later(Device* device, void* target, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  require_device(device, "upload_later", target, bytes);
  enqueue(device, [=] {
    require_device(device, "upload_later", target, bytes);
    DeviceMemoryOpen open;
    std::memcpy(target, host, bytes);
  });
}

void read_back(Device* device, void* host, const void* source, std::size_t bytes) {
  require_device(device, "read_back", source, bytes);
  if (device == nullptr) device = &default_device();
  device->wait();
  DeviceMemoryOpen open;
  if (bytes) std::memcpy(host, source, bytes);
  ++device->statistics.host_waits;
  ++device->statistics.operations;
}

// ---- launches ----

namespace {

void run_now(Device* device, Extent grid, Extent block, std::size_t shared_bytes, const Call& call) {
  require_host("dev::launch");
  if (!device->config.borrowed_memory)
    if (const std::string wrong = argument_error(call); !wrong.empty()) throw Error("cusim: " + wrong);
  Launch l;
  l.device = device;
  l.config = device->config;
  const auto narrow = [](const Extent& e) {
    return dim3{static_cast<unsigned>(e.x), static_cast<unsigned>(e.y), static_cast<unsigned>(e.z)};
  };
  l.grid = gridDim = narrow(grid);
  l.block = blockDim = narrow(block);
  l.call = &call;
  l.dynamic_bytes = shared_bytes;
  l.random = mix(l.config.seed * 1000003 + l.device->statistics.launches++) | 1;
  l.runnable.reserve(static_cast<std::size_t>(std::max(l.config.resident_blocks, 1)) *
                     static_cast<std::size_t>(block.x * block.y * block.z));
  active = &l;
  find_host_stack(l);
#if CUSIM_TSAN
  l.scheduler_tsan = __tsan_get_current_fiber();
#endif
  // Blocks start in a random order: a device promises none.
  l.order.resize(static_cast<std::size_t>(grid.x * grid.y * grid.z));
  for (std::size_t i = 0; i < l.order.size(); ++i) {
    const std::size_t j = random_below(i + 1);
    l.order[i] = l.order[j];
    l.order[j] = static_cast<std::uint32_t>(i);
  }
  {
    DeviceMemoryOpen open;
    run_until_done();
  }
  active = nullptr;
  tsan_acquire(l.finished);
  if (!l.failure.empty()) throw Error(l.failure);
}

}  // namespace

void launch_call(Device* device, Extent grid, Extent block, std::size_t shared_bytes,
                 std::shared_ptr<const Call> call) {
  require_host("dev::launch");
  if (device == nullptr) device = &default_device();
  std::string refused = launch_error(device->config, grid, block, shared_bytes, call->kernel);
  if (refused.empty() && !device->config.borrowed_memory) refused = argument_error(*call);
  if (!refused.empty()) throw Error("cusim: " + refused);
  enqueue(device, [=] { run_now(device, grid, block, shared_bytes, *call); });
}

}  // namespace cusim
