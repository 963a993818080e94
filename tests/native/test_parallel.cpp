// parallel_for: every index once, chunks independent of threads, errors, nesting, forks.
#include <native/parallel.h>

#include <numeric>
#include <stdexcept>

#include <sys/wait.h>

#include "testing.h"

namespace {

double chunked_sum(const std::vector<double>& x, int threads) {
  std::vector<double> part((x.size() + 999) / 1000);
  native::parallel_for(static_cast<int64_t>(x.size()), 1000, threads, [&](int64_t begin, int64_t end) {
    part[begin / 1000] = std::accumulate(x.begin() + begin, x.begin() + end, 0.0);
  });
  return std::accumulate(part.begin(), part.end(), 0.0);
}

std::vector<double> harmonic(int64_t count) {
  std::vector<double> x(count);
  for (int64_t i = 0; i < count; ++i) x[i] = 1.0 / static_cast<double>(i + 1);
  return x;
}

}  // namespace

TEST("every index is visited once, for any count, grain and number of threads") {
  for (int64_t count : {0, 1, 7, 1000})
    for (int64_t grain : {0, 1, 3, 64, 5000})
      for (int threads : {0, 1, 2, 8}) {
        std::vector<std::atomic<int>> seen(count);
        native::parallel_for(count, grain, threads, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) seen[i].fetch_add(1, std::memory_order_relaxed);
        });
        for (auto& times : seen) EXPECT(times.load() == 1);
      }
}

TEST("a sum by chunks has the same bits for 1, 2, 3 and 8 threads") {
  const auto x = harmonic(1000003);
  const double expected = chunked_sum(x, 1);
  for (int threads : {2, 3, 8}) EXPECT(chunked_sum(x, threads) == expected);
}

TEST("the exception of the lowest chunk reaches the caller") {
  for (int round = 0; round < 20; ++round)
    EXPECT_THROWS(std::runtime_error, "chunk 3", native::parallel_for(100, 1, 4, [](int64_t begin, int64_t) {
                    if (begin >= 3) throw std::runtime_error("chunk " + std::to_string(begin));
                  }));
}

TEST("a loop inside a loop runs and ends") {
  std::atomic<int64_t> total{0};
  native::parallel_for(8, 1, 2, [&](int64_t, int64_t) {
    native::parallel_for(100, 10, 0, [&](int64_t begin, int64_t end) { total += end - begin; });
  });
  EXPECT(total == 800);
}

#if !defined(__SANITIZE_THREAD__) && !(defined(__has_feature) && NATIVE_STD_THREADS)
TEST("a process forked after threads were used does not hang") {
  const auto x = harmonic(100000);
  const double expected = chunked_sum(x, 2);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a hang ends here, by SIGALRM
    _exit(native::forked() && chunked_sum(x, 2) == expected ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

RUN_TESTS()
