// Cross entropy over a part of the vocabulary: what a rank computes alone.
//
// The maximum and the sum of exponentials are taken in one pass (Milakov and Gimelshein, 2018, arXiv
// 1805.02867); the gradient recomputes the exponential, since reading logits twice costs less than
// writing a second copy of them.
#pragma once

#include <cstdint>

namespace tp_parallel {

// Logits [rows, columns], row-major. Columns from `valid` on are padding: never read, gradient zero.
struct LossShape {
  int64_t rows, columns, valid;
  int64_t start;          // this part's first column, in the whole vocabulary
  int64_t ignore_index;   // rows with this target have loss and gradient zero
  const int64_t* target;  // [rows]
};

// d loss / d logit = grad * ((1 + 2 z_loss lse) softmax - (1 - smoothing) onehot - smoothing / classes)
struct LossGradient {
  double smoothing, z_loss;
  int64_t classes;
};

// Statistics of a row, in this order.
enum Statistic { maximum, sum_exp, target_logit, sum, statistics_count };

}  // namespace tp_parallel
