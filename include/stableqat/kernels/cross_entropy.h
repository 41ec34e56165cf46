// Losses over rows of logits, which they turn into their own gradient in place. fp32; logarithms of sums in double.
//
// Logits are dense [rows, columns], columns = V; targets [rows] lie in 0..columns-1. A row is read twice and written once. OpenMP threads
// share rows; results do not depend on their number. Nothing throws; a row that holds NaN or infinity gives NaN. Losses are in nats.
#pragma once

#include <cstdint>

#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

struct DistillationTerms {
  float weight;       // of the divergence; the data loss has 1 - weight
  float temperature;  // t > 0
};

struct CrossEntropyKernels {
  // log_probs[row] = log softmax(logits)[target]. Reads logits once.
  void (*log_probs)(std::int64_t rows, std::int64_t columns, const float* logits, const std::int64_t* targets, float* log_probs);

  // losses[row] = -log softmax(logits)[target]; logits := scale * (softmax(logits) - onehot(target)).
  void (*gradient_in_place)(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, float scale, float* logits,
                            double* losses);

  // losses[row] as above, and divergences[row] = t^2 KL(softmax(teacher / t) || softmax(logits / t)); logits := scale times the gradient of
  // (1 - weight) * losses[row] + weight * divergences[row]. `teacher` holds the teacher's logits [rows, columns].
  void (*distilled_gradient_in_place)(std::int64_t rows, std::int64_t columns, const std::int64_t* targets, const DistillationTerms& terms,
                                      float scale, const float* teacher, float* logits, double* losses, double* divergences);
};

// Throws what active_isa() throws. Thread-safe, as the kernels are.
const CrossEntropyKernels& cross_entropy_kernels(Isa isa = active_isa());

}  // namespace stableqat::kernels
