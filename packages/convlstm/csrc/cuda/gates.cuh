// One thread for each element of the state; neighbours in a warp are neighbours in memory.
#pragma once

#include <stdexcept>

#include "cuda/gates.h"

namespace convlstm::cuda {

constexpr int threads_per_block = 256;
constexpr int blocks_per_multiprocessor = 16;  // a grid-stride loop covers the rest

template <Activation A, Activation R>
DEV_KERNEL(threads_per_block)
forward_kernel(ForwardStep<float> s) {
  const int64_t n = s.channels;
  for (int64_t k = dev::thread_index(); k < s.pixels * n; k += dev::thread_count()) {
    const int64_t pixel = k / n, j = k - pixel * n, row = pixel * 4 * n + j;
    if (s.valid && !s.valid[pixel / s.pixels_per_sequence]) {
      s.h[k] = s.h_before[k];
      s.c[k] = s.c_before[k];
      if (s.gates)
        for (int q = 0; q < 4; ++q) s.gates[row + q * n] = 0.0f;
      continue;
    }
    float gate[4];
    for (int q = 0; q < 4; ++q) {
      gate[q] = s.pre[row + q * n];
      if (s.pre2) gate[q] += s.pre2[row + q * n];
      if (s.bias) gate[q] += s.bias[j + q * n];
    }
    float p[3] = {0.0f, 0.0f, 0.0f};
    if (s.peephole)
      for (int q = 0; q < 3; ++q) p[q] = s.peephole[j + q * n];
    forward_element<A, R>(gate[0], gate[1], gate[2], gate[3], s.c_before[k], p[0], p[1], p[2], s.c[k],
                          s.h[k]);
    if (s.gates)
      for (int q = 0; q < 4; ++q) s.gates[row + q * n] = gate[q];
  }
}

template <Activation A, Activation R>
DEV_KERNEL(threads_per_block)
backward_kernel(BackwardStep<float> s) {
  const int64_t n = s.channels;
  for (int64_t k = dev::thread_index(); k < s.pixels * n; k += dev::thread_count()) {
    const int64_t pixel = k / n, j = k - pixel * n, row = pixel * 4 * n + j;
    if (s.valid && !s.valid[pixel / s.pixels_per_sequence]) {
      for (int q = 0; q < 4; ++q) s.d_pre[row + q * n] = 0.0f;
      continue;
    }
    float gate[4], p[3] = {0.0f, 0.0f, 0.0f};
    for (int q = 0; q < 4; ++q) gate[q] = s.gates[row + q * n];
    if (s.peephole)
      for (int q = 0; q < 3; ++q) p[q] = s.peephole[j + q * n];
    const float dh = (s.dh ? s.dh[k] : 0.0f) + (s.dh2 ? s.dh2[k] : 0.0f);
    backward_element<A, R>(gate[0], gate[1], gate[2], gate[3], s.c_before[k], s.c[k], dh, p[0], p[1], p[2],
                           s.dc[k]);
    for (int q = 0; q < 4; ++q) s.d_pre[row + q * n] = gate[q];
  }
}

template <Activation A, Activation R>
void launch_step(const ForwardStep<float>& s, int64_t blocks, dev::Stream stream) {
  dev::launch(forward_kernel<A, R>, {blocks}, {threads_per_block}, 0, stream, s);
}

template <Activation A, Activation R>
void launch_step(const BackwardStep<float>& s, int64_t blocks, dev::Stream stream) {
  dev::launch(backward_kernel<A, R>, {blocks}, {threads_per_block}, 0, stream, s);
}

template <class Step>
void dispatch(const Step& s, Activation activation, Activation recurrent, dev::Stream stream) {
  const int64_t count = s.pixels * s.channels;
  if (count == 0) return;
  const int64_t blocks =
      dev::grid_blocks((count + threads_per_block - 1) / threads_per_block, blocks_per_multiprocessor);
  with_activations(activation, recurrent, [&](auto a, auto r) {
    launch_step<decltype(a)::value, decltype(r)::value>(s, blocks, stream);
  });
}

}  // namespace convlstm::cuda
