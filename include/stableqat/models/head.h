// The output head in chunks of rows: log-probabilities, loss and gradients without ever holding the logits of a whole batch (B*T x V).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "stableqat/models/causal_lm.h"

namespace stableqat {

// Rows of logits that are alive at once: 256 x 49152 fp32 are 50 MB, and wider products are not faster.
inline constexpr std::int64_t kHeadChunkRows = 256;
// On a GPU, whose products like more of them.
inline constexpr std::int64_t kGpuHeadChunkRows = 2048;

// log p(ids[b, t+1] | ids[b, 0..t]) for t = 0..T-2. hidden [B, T, C] after the final norm, ids [B, T] -> [B, T-1], float64 in a float64
// model, else float32. No gradient is recorded.
at::Tensor token_log_probs(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& ids);

// One token whose probability is wanted: `row` of the hidden states predicts it.
struct TokenQuery {
  std::int64_t row = 0;
  std::int64_t token = 0;
};
struct TokenAnswer {
  double log_prob = 0.0;   // in nats
  bool is_greedy = false;  // the most likely token there, the one with the lowest id of several
};

// Answers in the order of the queries. hidden [N, C] after the final norm. Each row that is asked for meets the head once, however many
// tokens are asked of it. No gradient is recorded.
std::vector<TokenAnswer> query_tokens(const CausalLm& model, const at::Tensor& hidden, std::span<const TokenQuery> queries);

// Logits of the given rows. hidden [R, C] -> [R, V], float32 at least.
at::Tensor logits(const CausalLm& model, const at::Tensor& hidden);

// Forward Kullback-Leibler divergence to a teacher's distribution, mixed with the data loss:
//   loss = (1 - weight) * cross entropy + weight * temperature^2 * KL(teacher || student), both softened by the temperature in the second
//   term.
struct Distillation {
  const CausalLm* teacher = nullptr;
  at::Tensor teacher_hidden;  // [B, T, C] for the same ids
  double weight = 0.0;
  double temperature = 1.0;
};

// Means over the B*(T-1) predicted tokens, in nats.
struct HeadLoss {
  at::Tensor losses;           // [2] float64, where the model is: what is minimized; the data loss alone
  at::Tensor hidden_gradient;  // [B, T, C]: d(gradient_scale * loss) / d hidden

  // These wait for a GPU.
  double loss() const { return losses[0].item<double>(); }
  double cross_entropy() const { return losses[1].item<double>(); }
};

// Loss and gradients in one pass: the gradient of the head's weight is added to its .grad, that of `hidden` is returned. `hidden` [B, T, C]
// is taken without its history. T must be at least 2. `distillation` nullptr = data loss only.
HeadLoss head_forward_backward(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& ids, double gradient_scale,
                               const Distillation* distillation = nullptr);

}  // namespace stableqat
