// convlstm's core from C++: the gates of a step against the equations in double, every pair of activations.
#include <cpu/gates.h>

#include <cmath>

#include "testing.h"

using namespace convlstm;

namespace {

constexpr int64_t pixels = 70, channels = 11;

double apply(Activation kind, double x) {
  switch (kind) {
    case Activation::tanh: return std::tanh(x);
    case Activation::sigmoid: return 1 / (1 + std::exp(-x));
    case Activation::hard_sigmoid: return std::fmin(std::fmax(x / 6 + 0.5, 0), 1);
    case Activation::hard_sigmoid_keras2: return std::fmin(std::fmax(x / 5 + 0.5, 0), 1);
    case Activation::relu: return std::fmax(x, 0);
    default: return x;
  }
}

template <class T>
std::vector<T> numbers(size_t count, uint32_t seed) {
  std::vector<T> values(count);
  for (T& value : values) value = T((seed = seed * 1664525u + 1013904223u) >> 16) / T(16384) - 2;
  return values;
}

template <class T>
struct Step {
  std::vector<T> pre = numbers<T>(pixels * 4 * channels, 1), bias = numbers<T>(4 * channels, 2),
                 peephole = numbers<T>(3 * channels, 3), h_before = numbers<T>(pixels * channels, 4),
                 c_before = numbers<T>(pixels * channels, 5);
  std::vector<uint8_t> valid{1, 0, 1, 1, 1};  // of sequences of 14 pixels
  std::vector<T> gates = std::vector<T>(pixels * 4 * channels), c = std::vector<T>(pixels * channels), h = c;

  ForwardStep<T> step() {
    return {pixels,       channels,        pixels / 5,   pre.data(),      nullptr,
            bias.data(),  peephole.data(), valid.data(), h_before.data(), c_before.data(),
            gates.data(), c.data(),        h.data()};
  }
};

// The largest difference of c and h from the equations.
template <class T>
double error(const Step<T>& s, Activation activation, Activation recurrent) {
  double worst = 0;
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t j = 0; j < channels; ++j) {
      const int64_t at = pixel * channels + j;
      double c = s.c_before[at], h = s.h_before[at];
      if (s.valid[pixel / (pixels / 5)]) {
        auto sum = [&](int64_t gate) {
          return double(s.pre[(pixel * 4 + gate) * channels + j]) + s.bias[gate * channels + j];
        };
        const double i = apply(recurrent, sum(0) + s.peephole[j] * c);
        const double f = apply(recurrent, sum(1) + s.peephole[channels + j] * c);
        c = f * c + i * apply(activation, sum(2));
        h = apply(recurrent, sum(3) + s.peephole[2 * channels + j] * c) * apply(activation, c);
      }
      worst = std::fmax(worst, std::fmax(std::abs(c - s.c[at]), std::abs(h - s.h[at])));
    }
  return worst;
}

constexpr Activation activations[] = {Activation::tanh, Activation::relu, Activation::linear,
                                      Activation::sigmoid};
constexpr Activation recurrents[] = {Activation::sigmoid, Activation::hard_sigmoid,
                                     Activation::hard_sigmoid_keras2};

}  // namespace

TEST("a step follows the equations, for every pair of activations, and carries padding over") {
  for (Activation activation : activations)
    for (Activation recurrent : recurrents) {
      Step<float> narrow;
      NATIVE_CALL_ISA(gates_forward_float)(narrow.step(), activation, recurrent, 3);
      EXPECT(error(narrow, activation, recurrent) < 1e-4);
      Step<double> wide;
      NATIVE_CALL_ISA(gates_forward_double)(wide.step(), activation, recurrent, 3);
      EXPECT(error(wide, activation, recurrent) < 1e-12);
    }
}

TEST("a step has the same bits for any number of threads") {
  Step<float> one, four;
  NATIVE_CALL_ISA(gates_forward_float)(one.step(), Activation::tanh, Activation::sigmoid, 1);
  NATIVE_CALL_ISA(gates_forward_float)(four.step(), Activation::tanh, Activation::sigmoid, 4);
  EXPECT(one.c == four.c && one.h == four.h && one.gates == four.gates);
}

TEST("the backward step is the slope of the forward step") {
  Step<double> s;
  NATIVE_CALL_ISA(gates_forward_double)(s.step(), Activation::tanh, Activation::sigmoid, 2);
  const std::vector<double> dh(pixels * channels, 1.0);
  std::vector<double> dc(pixels * channels), d_pre(pixels * 4 * channels);
  NATIVE_CALL_ISA(gates_backward_double)
  ({pixels, channels, pixels / 5, s.gates.data(), s.c_before.data(), s.c.data(), dh.data(), nullptr,
    s.peephole.data(), s.valid.data(), dc.data(), d_pre.data()},
   Activation::tanh, Activation::sigmoid, 3);
  auto total = [](const Step<double>& step) {  // of h, at the pixels that were computed
    double sum = 0;
    for (int64_t at = 0; at < pixels * channels; ++at) sum += step.h[at];
    return sum;
  };
  const double small = 1e-6;
  for (size_t at : {size_t(0), size_t(3 * channels + 5), size_t(60 * 4 * channels + 2 * channels)}) {
    double slope = 0;
    for (double sign : {1.0, -1.0}) {
      Step<double> moved;
      moved.pre[at] += sign * small;
      NATIVE_CALL_ISA(gates_forward_double)(moved.step(), Activation::tanh, Activation::sigmoid, 2);
      slope += sign * total(moved) / (2 * small);
    }
    EXPECT(std::abs(slope - d_pre[at]) < 1e-7);
  }
}

TEST("a pair of activations without a kernel is refused") {
  Step<float> s;
  EXPECT_THROWS(std::invalid_argument, "gates: no kernel for this recurrent activation",
                NATIVE_CALL_ISA(gates_forward_float)(s.step(), Activation::tanh, Activation::relu, 1));
}

RUN_TESTS()
