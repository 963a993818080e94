// The CUDA gate kernels in the simulator, beside loops over core/gates.h in double.
#include <cuda/gates.cu>

#include <cmath>
#include <random>
#include <vector>

#include "cusim_test.h"

namespace gpu = convlstm::cuda;
using cusim::Buffer;
using namespace convlstm;

namespace {

using Values = std::vector<float>;

struct Size {
  int64_t sequences, pixels, channels;  // pixels of one sequence
  int64_t states() const { return sequences * pixels * channels; }
};

// Which optional inputs a step has.
struct Given {
  bool pre2, bias, peephole, valid, gates;
};

bool near(double got, double want) { return std::abs(got - want) <= 2e-6 * (1.0 + std::abs(want)); }

struct Random {
  std::mt19937 engine;
  Values operator()(int64_t count) {
    std::normal_distribution<float> normal(0.0f, 1.5f);
    Values values(static_cast<size_t>(count));
    for (float& value : values) value = normal(engine);
    return values;
  }
};

template <Activation A, Activation R>
void compare(cusim::Device& device, const Size& size, const Given& given) {
  Random random{std::mt19937(static_cast<unsigned>(device.config.seed))};
  const int64_t n = size.states(), c = size.channels, per_sequence = size.pixels * c;
  const Values pre = random(4 * n), pre2 = random(4 * n), bias = random(4 * c), peephole = random(3 * c),
               h_before = random(n), c_before = random(n), dh = random(n), dh2 = random(n), dc = random(n);
  std::vector<uint8_t> valid(static_cast<size_t>(size.sequences));
  for (size_t b = 0; b < valid.size(); ++b) valid[b] = b % 2 == 0;

  Values h(pre.size() / 4), state(h.size()), gates(pre.size()), d_pre(pre.size()), d_before(h.size());
  for (int64_t k = 0; k < n; ++k) {
    const int64_t j = k % c, row = k / c * 4 * c + j;
    const auto at = [&](const Values& values, int64_t i) {
      return static_cast<double>(values[static_cast<size_t>(i)]);
    };
    const auto keep = [](Values& values, int64_t i, double value) {
      values[static_cast<size_t>(i)] = static_cast<float>(value);
    };
    if (given.valid && !valid[static_cast<size_t>(k / per_sequence)]) {
      keep(h, k, at(h_before, k));
      keep(state, k, at(c_before, k));
      keep(d_before, k, at(dc, k));
      continue;  // gates and d_pre are 0
    }
    double gate[4], p[3] = {0, 0, 0}, c_new, h_new, d = at(dc, k);
    for (int q = 0; q < 4; ++q)
      gate[q] = at(pre, row + q * c) + (given.pre2 ? at(pre2, row + q * c) : 0.0) +
                (given.bias ? at(bias, j + q * c) : 0.0);
    for (int q = 0; q < 3 && given.peephole; ++q) p[q] = at(peephole, j + q * c);
    forward_element<A, R>(gate[0], gate[1], gate[2], gate[3], at(c_before, k), p[0], p[1], p[2], c_new,
                          h_new);
    keep(h, k, h_new);
    keep(state, k, c_new);
    for (int q = 0; q < 4; ++q) keep(gates, row + q * c, gate[q]);
    backward_element<A, R>(gate[0], gate[1], gate[2], gate[3], at(c_before, k), c_new, at(dh, k) + at(dh2, k),
                           p[0], p[1], p[2], d);
    keep(d_before, k, d);
    for (int q = 0; q < 4; ++q) keep(d_pre, row + q * c, gate[q]);
  }

  Buffer<float> pre_(pre), pre2_(pre2), bias_(bias), peephole_(peephole), h_before_(h_before),
      c_before_(c_before), gates_(gates.size()), c_(h.size()), h_(h.size()), dh_(dh), dh2_(dh2), dc_(dc),
      d_pre_(d_pre.size());
  Buffer<uint8_t> valid_(valid);
  const int64_t pixels = size.sequences * size.pixels;
  const ForwardStep<float> forward{pixels,
                                   c,
                                   size.pixels,
                                   pre_.data(),
                                   given.pre2 ? pre2_.data() : nullptr,
                                   given.bias ? bias_.data() : nullptr,
                                   given.peephole ? peephole_.data() : nullptr,
                                   given.valid ? valid_.data() : nullptr,
                                   h_before_.data(),
                                   c_before_.data(),
                                   given.gates ? gates_.data() : nullptr,
                                   c_.data(),
                                   h_.data()};
  gpu::gates_forward(forward, A, R, &device);
  const auto require_near = [](const Values& got, const Values& want) {
    for (size_t i = 0; i < want.size(); ++i) CUSIM_REQUIRE(near(got[i], want[i]));
  };
  require_near(h_.host(), h);
  require_near(c_.host(), state);
  if (!given.gates) return;
  require_near(gates_.host(), gates);
  const BackwardStep<float> backward{
      pixels,     c,           size.pixels,      gates_.data(), c_before_.data(), c_.data(),
      dh_.data(), dh2_.data(), forward.peephole, forward.valid, dc_.data(),       d_pre_.data()};
  gpu::gates_backward(backward, A, R, &device);
  require_near(dc_.host(), d_before);
  require_near(d_pre_.host(), d_pre);
  CUSIM_REQUIRE(device.statistics.host_waits == 0);
}

constexpr auto tanh_ = Activation::tanh, sigmoid_ = Activation::sigmoid;

}  // namespace

CUSIM_CASE(all_inputs) { compare<tanh_, sigmoid_>(device, {3, 37, 5}, {true, true, true, true, true}); }
CUSIM_CASE(only_what_is_needed) {
  compare<tanh_, sigmoid_>(device, {2, 40, 8}, {false, false, false, false, false});
}
CUSIM_CASE(gates_kept_for_backward) {
  compare<tanh_, sigmoid_>(device, {1, 300, 4}, {false, true, false, false, true});
}
CUSIM_CASE(hard_sigmoid_of_keras_3) {
  compare<tanh_, Activation::hard_sigmoid>(device, {2, 20, 7}, {true, true, true, false, true});
}
CUSIM_CASE(hard_sigmoid_of_keras_2) {
  compare<tanh_, Activation::hard_sigmoid_keras2>(device, {2, 20, 7}, {true, true, true, false, true});
}
CUSIM_CASE(relu) { compare<Activation::relu, sigmoid_>(device, {2, 20, 7}, {true, true, true, true, true}); }
CUSIM_CASE(linear) {
  compare<Activation::linear, sigmoid_>(device, {2, 20, 7}, {true, true, true, true, true});
}
CUSIM_CASE(no_pixels) { compare<tanh_, sigmoid_>(device, {1, 0, 4}, {true, true, true, false, true}); }
CUSIM_CASE(a_pair_without_a_kernel_is_refused) {
  Buffer<float> x(64, 0.0f);
  float* const p = x.data();
  const ForwardStep<float> step{1, 1, 1, p, nullptr, nullptr, nullptr, nullptr, p, p, p, p + 8, p + 16};
  try {
    gpu::gates_forward(step, Activation::hard_sigmoid, sigmoid_, &device);
    CUSIM_REQUIRE(!"accepted");
  } catch (const std::invalid_argument& error) {
    CUSIM_REQUIRE(std::string(error.what()) == "gates: no kernel for this activation");
  }
}

CUSIM_MAIN
