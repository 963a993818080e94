// The CUDA cross-entropy kernels in the simulator, beside plain loops in double.
#include <cuda/loss.cu>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "cusim_test.h"

namespace gpu = tp_parallel::cuda;
using cusim::Buffer;
using namespace tp_parallel;

namespace {

bool near(double got, double want, double tolerance) {
  return std::abs(got - want) <= tolerance * (1.0 + std::abs(want));
}

void compare(cusim::Device& device, int64_t rows, int64_t columns, int64_t valid) {
  std::mt19937 random(static_cast<unsigned>(device.config.seed) + 7u);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  const int64_t start = 100, ignore = -100;
  std::vector<float> x(static_cast<size_t>(rows * columns)), lse(static_cast<size_t>(rows)),
      grad(static_cast<size_t>(rows));
  std::vector<int64_t> target(static_cast<size_t>(rows));
  for (auto& value : x) value = normal(random);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = valid; c < columns; ++c) x[static_cast<size_t>(r * columns + c)] = NAN;
    target[static_cast<size_t>(r)] = r % 3 == 2 ? ignore : start - 1 + r % (columns + 2);
    grad[static_cast<size_t>(r)] = 0.5f + static_cast<float>(r);
  }
  Buffer<float> logits(x), statistics(static_cast<size_t>(rows * statistics_count)), out(x.size());
  Buffer<int64_t> targets(target);
  const LossShape s{rows, columns, valid, start, ignore, targets.data()};
  gpu::statistics(logits.data(), s, true, statistics.data(), &device);
  const auto got = statistics.host();
  for (int64_t r = 0; r < rows; ++r) {
    double top = -INFINITY, total = 0, plain = 0;
    for (int64_t c = 0; c < valid; ++c) top = std::max<double>(top, x[static_cast<size_t>(r * columns + c)]);
    for (int64_t c = 0; c < valid; ++c) {
      total += std::exp(x[static_cast<size_t>(r * columns + c)] - top);
      plain += x[static_cast<size_t>(r * columns + c)];
    }
    const float* mine = got.data() + r * statistics_count;
    CUSIM_REQUIRE(mine[maximum] == static_cast<float>(top));
    CUSIM_REQUIRE(near(mine[sum_exp], total, 1e-5));
    CUSIM_REQUIRE(near(mine[sum], plain, 1e-4));
    lse[static_cast<size_t>(r)] = static_cast<float>(top + std::log(total));
  }
  const LossGradient g{0.1, 0.01, 1000};
  Buffer<float> lses(lse), grads(grad);
  gpu::gradient(logits.data(), s, g, lses.data(), grads.data(), out.data(), &device);
  const auto gradients = out.host();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      double want = 0;
      const int64_t t = target[static_cast<size_t>(r)];
      const double l = lse[static_cast<size_t>(r)];
      if (t != ignore && c < valid) {
        want = std::exp(x[static_cast<size_t>(r * columns + c)] - l) * (1 + 0.02 * l) - 0.1 / 1000;
        if (c == t - start) want -= 0.9;
        want *= grad[static_cast<size_t>(r)];
      }
      CUSIM_REQUIRE(near(gradients[static_cast<size_t>(r * columns + c)], want, 1e-4));
    }
  // in place
  gpu::gradient(logits.data(), s, g, lses.data(), grads.data(), logits.data(), &device);
  CUSIM_REQUIRE(logits.host() == gradients);
}

}  // namespace

CUSIM_CASE(no_rows) { compare(device, 0, 5, 5); }
CUSIM_CASE(one_column) { compare(device, 3, 1, 1); }
CUSIM_CASE(fewer_columns_than_threads) { compare(device, 5, 97, 97); }
CUSIM_CASE(more_columns_than_threads_and_padding) { compare(device, 4, 700, 690); }

CUSIM_MAIN
