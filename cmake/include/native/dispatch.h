// Run-time choice of the instruction set. A source listed under SIMD in native_package() is compiled
// once for each name below with NATIVE_ISA defined to it; it wraps its functions in
// `namespace NATIVE_ISA { ... }`. The header that declares them says
//   NATIVE_DECLARE_ISA(void axpy(const float* x, float* y, int64_t n))
// and callers inside (or using) the same namespace say NATIVE_CALL_ISA(axpy)(x, y, n).
//
// Such a source takes care that no inline function of a header is emitted out of line: the linker keeps
// one copy for all levels, and an AVX-512 copy of std::vector's growth would end an older processor.
// So: buffers are made by the caller or are std::unique_ptr<T[]>; tests/test_instruction_sets.py looks.
//
// The environment variable NATIVE_ISA=baseline|avx2|avx512 lowers the choice (for tests and
// comparisons); it never raises it above what the processor has.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace native {

enum class Isa { baseline, avx2, avx512 };

inline const char* name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline";
}

// The levels are x86-64-v3 and x86-64-v4 of the x86-64 psABI; other processors have the baseline only.
inline Isa detect_isa() {
  Isa best = Isa::baseline;
#if NATIVE_X86_LEVELS
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") &&
                  __builtin_cpu_supports("avx512vl");
  best = v4 ? Isa::avx512 : v3 ? Isa::avx2 : Isa::baseline;
#endif
  if (const char* wish = std::getenv("NATIVE_ISA"))
    for (Isa isa : {Isa::baseline, Isa::avx2})
      if (std::strcmp(wish, name(isa)) == 0 && isa < best) best = isa;
  return best;
}

inline Isa isa() {
  static const Isa chosen = detect_isa();
  return chosen;
}

}  // namespace native

#if NATIVE_X86_LEVELS
#define NATIVE_DECLARE_ISA(...) \
  namespace baseline {          \
  __VA_ARGS__;                  \
  }                             \
  namespace avx2 {              \
  __VA_ARGS__;                  \
  }                             \
  namespace avx512 {            \
  __VA_ARGS__;                  \
  }
#define NATIVE_CALL_ISA(...)                                       \
  (::native::isa() == ::native::Isa::avx512 ? &avx512::__VA_ARGS__ \
   : ::native::isa() == ::native::Isa::avx2 ? &avx2::__VA_ARGS__   \
                                            : &baseline::__VA_ARGS__)
#else
#define NATIVE_DECLARE_ISA(...) \
  namespace baseline {          \
  __VA_ARGS__;                  \
  }
#define NATIVE_CALL_ISA(...) (&baseline::__VA_ARGS__)
#endif
