// What one simulated thread runs on: a context switch, a stack, and what the sanitizers are told.
// Part of runtime.cpp.
#pragma once

#include "cusim.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define CUSIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUSIM_ASAN 1
#endif
#endif

#if CUSIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if CUSIM_ASAN || CUSIM_TSAN
extern "C" int __sanitizer_get_ownership(const volatile void* p);
#endif
#if CUSIM_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif
#if !defined(__x86_64__) || CUSIM_UCONTEXT
#include <ucontext.h>
#endif

namespace cusim {
namespace {

constexpr std::size_t stack_bytes = 128 * 1024;
constexpr std::size_t arena_bytes = 320 * 1024;  // dynamic (at most 227 KiB), static, red zones
int poison = 0xCD;                               // by the seed: see begin()

// ---- sanitizer annotations ----

void asan_poison(void* p, std::size_t n) {
#if CUSIM_ASAN
  __asan_poison_memory_region(p, n);
#else
  (void)p, (void)n;
#endif
}

void asan_unpoison(void* p, std::size_t n) {
#if CUSIM_ASAN
  __asan_unpoison_memory_region(p, n);
#else
  (void)p, (void)n;
#endif
}

void tsan_acquire(void* p) {
#if CUSIM_TSAN
  __tsan_acquire(p);
#else
  (void)p;
#endif
}

void tsan_release(void* p) {
#if CUSIM_TSAN
  __tsan_release(p);
#else
  (void)p;
#endif
}

// ---- context switch ----

#if defined(__x86_64__) && !CUSIM_UCONTEXT

// Saves the callee-saved registers on the stack in use, stores its pointer and continues on another.
// ucontext would cost two system calls a switch, and ASan clears the whole target stack on it.
extern "C" void cusim_switch(void** save, void* resume);
asm(R"(
.text
.globl cusim_switch
.type cusim_switch,@function
cusim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cusim_switch,.-cusim_switch
)");

struct Context {
  void* stack_pointer = nullptr;

  void prepare(char* stack, void (*entry)()) {
    auto* top = reinterpret_cast<std::uint64_t*>(stack + stack_bytes);
    *--top = 0;  // return address of entry: none, it never returns
    *--top = reinterpret_cast<std::uint64_t>(entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
    *--top = 0x037full << 32 | 0x1f80u;  // x87 control word and MXCSR at their defaults
    stack_pointer = top;
  }

  static void swap(Context& from, Context& to) { cusim_switch(&from.stack_pointer, to.stack_pointer); }
};

#else

struct Context {
  ucontext_t state;

  void prepare(char* stack, void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack;
    state.uc_stack.ss_size = stack_bytes;
    state.uc_link = nullptr;
    makecontext(&state, entry, 0);
  }

  static void swap(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
};

#endif

// ---- memory of fibers and blocks ----

// Mappings of one size above a guard page, kept for reuse. Under ThreadSanitizer memory that another thread
// has used looks like a race, and a fresh mapping does not: there it is mapped anew in place.
class MappingPool {
 public:
  explicit MappingPool(std::size_t bytes) : bytes_(bytes) {}

  char* take() {
    if (!free_.empty()) {
      char* memory = free_.back();
      free_.pop_back();
      asan_unpoison(memory, bytes_);
#if CUSIM_TSAN
      map(memory, bytes_, MAP_FIXED);
#endif
      return memory;
    }
    char* base = map(nullptr, bytes_ + guard_, 0);
    mprotect(base, guard_, PROT_NONE);
    return base + guard_;
  }

  void give(char* memory) { free_.push_back(memory); }

 private:
  static char* map(char* where, std::size_t bytes, int flags) {
    void* base = mmap(where, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    if (base == MAP_FAILED) {
      std::fputs("cusim: no memory for the stacks of the threads\n", stderr);
      std::abort();
    }
    return static_cast<char*>(base);
  }

  std::size_t bytes_;
  std::size_t guard_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<char*> free_;
};

MappingPool stacks(stack_bytes);
MappingPool arenas(arena_bytes);

// Written word by word: a call of memset would be seen by ThreadSanitizer as this thread's write.
void fill_poison(char* memory, std::size_t bytes) {
  for (volatile char* p = memory; p != memory + bytes; ++p) *p = static_cast<char>(poison);
}

}  // namespace
}  // namespace cusim
