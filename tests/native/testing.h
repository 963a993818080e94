// A test binary in 60 lines: TEST("sentence") { EXPECT(condition); EXPECT_THROWS(Error, "text", call); }
// and RUN_TESTS() once. Exit code 1 if anything failed, with file and line.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace testing {

struct Case {
  const char* sentence;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
inline int failures = 0;

struct Registration {
  Registration(const char* sentence, std::function<void()> body) { cases().push_back({sentence, body}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  std::printf("%s:%d: %s\n", file, line, what.c_str());
  ++failures;
}

inline int run() {
  for (const Case& test : cases()) {
    const int before = failures;
    try {
      test.body();
    } catch (const std::exception& error) {
      fail(test.sentence, 0, std::string("threw: ") + error.what());
    }
    std::printf("%s  %s\n", failures == before ? "ok    " : "FAILED", test.sentence);
  }
  std::printf("%zu tests, %d failures\n", cases().size(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace testing

#define TESTING_JOIN2(a, b) a##b
#define TESTING_JOIN(a, b) TESTING_JOIN2(a, b)
#define TEST(sentence)                                                                                     \
  static void TESTING_JOIN(test_, __LINE__)();                                                             \
  static const testing::Registration TESTING_JOIN(registration_, __LINE__)(sentence,                       \
                                                                           TESTING_JOIN(test_, __LINE__)); \
  static void TESTING_JOIN(test_, __LINE__)()
#define EXPECT(condition) \
  if (!(condition)) testing::fail(__FILE__, __LINE__, "expected " #condition)
#define EXPECT_THROWS(Error, text, ...)                                         \
  try {                                                                         \
    __VA_ARGS__;                                                                \
    testing::fail(__FILE__, __LINE__, "nothing was thrown by " #__VA_ARGS__);   \
  } catch (const Error& error) {                                                \
    if (std::string(error.what()) != (text))                                    \
      testing::fail(__FILE__, __LINE__, std::string("threw: ") + error.what()); \
  }
#define RUN_TESTS() \
  int main() { return testing::run(); }
