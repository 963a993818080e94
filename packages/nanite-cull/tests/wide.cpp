// core/wide.h beside the machine's doubles: sums, differences, products, order and conversions of numbers
// drawn by chance, near each other, short, subnormal, infinite and none. Prints how many differ.
#include <core/wide.h>

#include <cmath>
#include <cstdio>
#include <random>

using namespace nanite_cull;

namespace {

double machine(uint64_t bits) {
  double x;
  memcpy(&x, &bits, 8);
  return x;
}

bool same(Wide a, double b) { return std::isnan(b) ? a.size() > wide_infinity : memcmp(&a.bits, &b, 8) == 0; }
bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || memcmp(&a, &b, 4) == 0; }

}  // namespace

int main() {
  std::mt19937_64 random(1);
  const uint64_t exponents = wide_infinity;
  long wrong = 0;
  for (int i = 0; i < 2'000'000; ++i) {
    uint64_t a = random(), b = random();
    const auto draw = [&](uint64_t n) { return random() % n; };
    const uint64_t kind = draw(8);
    if (kind < 4) b = (b & ~exponents) | (((a >> 52) + 2048 + draw(120) - 60) & 2047) << 52;  // alike
    if (kind == 1) b = a ^ draw(8) ^ (draw(2) << 63);
    if (kind == 2) a &= ~uint64_t(0) << draw(52), b &= ~uint64_t(0) << draw(52);  // short
    if (kind == 5) a = (a & ~exponents) | draw(3) << 52;                          // subnormal and their kin
    if (kind == 6) a = (a & ~exponents) | (870 + draw(300)) << 52;                // at the ends of float
    if (kind == 6 && draw(2)) a = a >> 28 << 28 | uint64_t(1) << 28;              // ties
    if (kind == 7) a = draw(2) ? wide_infinity : wide_nan, b = draw(3) ? b : draw(2) << 63;
    const Wide x = Wide::of(a), y = Wide::of(b);
    const double p = machine(a), q = machine(b);
    wrong += !same(x + y, p + q) + !same(x - y, p - q) + !same(x * y, p * q) + !same(-x, -p);
    wrong += (x < y) != (p < q);
    wrong += !same(static_cast<float>(x), static_cast<float>(p));
    uint32_t word = static_cast<uint32_t>(random());
    if (kind == 3) word &= 0x807fffff;
    float f;
    memcpy(&f, &word, 4);
    wrong += !same(Wide(f), static_cast<double>(f));
  }
  std::printf("%ld\n", wrong);
}
