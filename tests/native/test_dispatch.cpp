// The chosen instruction set, and that the environment only ever lowers it.
#include <native/dispatch.h>

#include "testing.h"

TEST("the environment lowers the choice and never raises it") {
  unsetenv("NATIVE_ISA");
  const native::Isa best = native::detect_isa();
  setenv("NATIVE_ISA", "baseline", 1);
  EXPECT(native::detect_isa() == native::Isa::baseline);
  setenv("NATIVE_ISA", "avx2", 1);
  EXPECT(native::detect_isa() == (best == native::Isa::baseline ? native::Isa::baseline : native::Isa::avx2));
  setenv("NATIVE_ISA", "avx512", 1);
  EXPECT(native::detect_isa() == best);
  setenv("NATIVE_ISA", "nonsense", 1);
  EXPECT(native::detect_isa() == best);
  unsetenv("NATIVE_ISA");
}

TEST("every choice has its name") {
  EXPECT(std::string(native::name(native::Isa::baseline)) == "baseline");
  EXPECT(std::string(native::name(native::Isa::avx512)) == "avx512");
}

RUN_TESTS()
