// tp-parallel's core from C++: a row's statistics and its gradient against sums in double.
#include <cpu/loss.h>

#include <algorithm>
#include <cmath>

#include "testing.h"

using namespace tp_parallel;

namespace {

constexpr int64_t rows = 9, columns = 131, valid = 120, start = 40;

// Row 0 has a target in another part, row 1 is ignored; values from 300 upwards would overflow an
// exponential.
struct Problem {
  std::vector<float> logits = std::vector<float>(rows * columns);
  std::vector<int64_t> target = std::vector<int64_t>(rows);
  LossShape shape;

  Problem() {
    uint32_t state = 7;
    for (float& value : logits)
      value = static_cast<float>((state = state * 1664525u + 1013904223u) >> 20) / 13.f;
    for (int64_t row = 0; row < rows; ++row) target[row] = start + 13 * row % valid;
    target[0] = start - 1;
    target[1] = -100;
    shape = {rows, columns, valid, start, -100, target.data()};
  }
};

}  // namespace

TEST("maximum, sum of exponentials and the target's logit are those of the columns that count") {
  const Problem p;
  std::vector<float> out(rows * statistics_count);
  NATIVE_CALL_ISA(statistics_float)(p.logits.data(), p.shape, true, out.data(), 3);
  for (int64_t row = 0; row < rows; ++row) {
    const float *x = &p.logits[row * columns], *found = &out[row * statistics_count];
    double exponentials = 0, all = 0;
    const float most = *std::max_element(x, x + valid);
    for (int64_t column = 0; column < valid; ++column)
      exponentials += std::exp(double(x[column]) - most), all += x[column];
    EXPECT(found[maximum] == most);
    EXPECT(std::abs(found[sum_exp] / exponentials - 1) < 1e-5);
    EXPECT(std::abs(found[sum] / all - 1) < 1e-5);
    if (row > 1) EXPECT(found[target_logit] == x[p.target[row] - start]);
  }
}

TEST("the gradient is softmax less one at the target, zero in padding and in ignored rows") {
  const Problem p;
  std::vector<float> lse(rows), grad(rows, 0.5f), out(rows * columns, 99.f), again(out);
  for (int64_t row = 0; row < rows; ++row) {
    const float* x = &p.logits[row * columns];
    const float most = *std::max_element(x, x + valid);
    double exponentials = 0;
    for (int64_t column = 0; column < valid; ++column) exponentials += std::exp(double(x[column]) - most);
    lse[row] = static_cast<float>(most + std::log(exponentials));
  }
  const LossGradient plain{0, 0, columns};
  NATIVE_CALL_ISA(gradient_float)(p.logits.data(), p.shape, plain, lse.data(), grad.data(), out.data(), 1);
  NATIVE_CALL_ISA(gradient_float)(p.logits.data(), p.shape, plain, lse.data(), grad.data(), again.data(), 4);
  EXPECT(out == again);
  double worst = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      const bool counts = column < valid && p.target[row] != -100;
      const double softmax = std::exp(double(p.logits[row * columns + column]) - lse[row]);
      const double expected = counts ? 0.5 * (softmax - (column == p.target[row] - start)) : 0;
      worst = std::max(worst, std::abs(expected - out[row * columns + column]));
    }
  EXPECT(worst < 1e-5);
}

RUN_TESTS()
