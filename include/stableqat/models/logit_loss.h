// Losses of a chunk of logits, which are turned into their own gradient in place. fp32 on the CPU, fp32 and bf16 on a GPU run our kernels
// (kernels/cross_entropy.h); the rest, and each _ref, is the plain definition in ATen's operations. No gradient is recorded. Logits and
// teacher logits are dense [R, V] of one type; targets [R] int64 lie in 0..V-1. Losses are in nats; sums of them are tensors [] float64
// where the logits are, so that a GPU need not be waited for.
#pragma once

#include <ATen/core/Tensor.h>

namespace stableqat {

// log softmax(logits)[target] -> [R], in the type of the logits, float32 at least.
at::Tensor target_log_probs(const at::Tensor& logits, const at::Tensor& targets);
at::Tensor target_log_probs_ref(const at::Tensor& logits, const at::Tensor& targets);

// Returns the sum of -log softmax(logits)[target] over the rows; logits := scale * its gradient.
at::Tensor cross_entropy_in_place(const at::Tensor& logits, const at::Tensor& targets, double scale);
at::Tensor cross_entropy_in_place_ref(const at::Tensor& logits, const at::Tensor& targets, double scale);

// Sums over the rows: the cross entropy, and the divergence t^2 KL(softmax(teacher / t) || softmax(logits / t)).
struct DistilledLoss {
  at::Tensor cross_entropy;
  at::Tensor divergence;
};

// logits := scale * gradient of (1 - weight) * cross entropy + weight * divergence, at temperature t.
DistilledLoss distilled_loss_in_place(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& teacher, double weight,
                                      double temperature, double scale);
DistilledLoss distilled_loss_in_place_ref(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& teacher, double weight,
                                          double temperature, double scale);

}  // namespace stableqat
