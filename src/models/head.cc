#include "stableqat/models/head.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "models/matmul.h"

namespace stableqat {

namespace {

// Rows of logits alive at once: 256 x 49152 fp32 are 50 MB, and wider products are not faster.
constexpr std::int64_t kChunkRows = 256;

struct PredictedRows {
  at::Tensor hidden;   // [B*(T-1), C]
  at::Tensor targets;  // [B*(T-1)]
};

PredictedRows predicted_rows(const at::Tensor& hidden, const at::Tensor& ids) {
  const std::int64_t predicted = ids.size(1) - 1;
  return {hidden.narrow(1, 0, predicted).reshape({-1, hidden.size(2)}), ids.narrow(1, 1, predicted).reshape({-1})};
}

at::Tensor chunk_logits(const CausalLm& model, const at::Tensor& rows) {
  const at::Tensor values = matmul::forward(rows, model.head_compute());
  return values.scalar_type() == at::kDouble ? values : values.to(at::kFloat);
}

void add_head_gradient(const at::Tensor& head, const at::Tensor& logit_gradient, const at::Tensor& rows) {
  if (!head.requires_grad()) return;
  matmul::add_weight_gradient(at::Tensor(head).mutable_grad(), head.scalar_type(), logit_gradient, rows);
}

// Sum over the chunk's rows of the loss terms; turns `values` (logits) into the gradient of their weighted sum.
struct ChunkLoss {
  double cross_entropy = 0.0;
  double divergence = 0.0;
};

ChunkLoss cross_entropy_in_place(at::Tensor& values, const at::Tensor& targets, double weight) {
  const at::Tensor normalizer = at::logsumexp(values, 1, true);
  const at::Tensor target_column = targets.unsqueeze(1);
  const double loss = (normalizer - values.gather(1, target_column)).sum(at::kDouble).item<double>();
  values.sub_(normalizer).exp_();
  values.scatter_add_(1, target_column, at::empty_like(normalizer).fill_(-1.0));
  values.mul_(weight);
  return {loss, 0.0};
}

ChunkLoss distilled_loss_in_place(at::Tensor& values, const at::Tensor& targets, const at::Tensor& teacher_values,
                                  const Distillation& distillation) {
  const double temperature = distillation.temperature;
  const at::Tensor student_log = at::log_softmax(values / temperature, 1);
  const at::Tensor teacher_log = at::log_softmax(teacher_values / temperature, 1);
  const at::Tensor teacher = teacher_log.exp();
  const double divergence = (teacher * (teacher_log - student_log)).sum(at::kDouble).item<double>();
  const at::Tensor divergence_gradient = (student_log.exp() - teacher) * (distillation.weight * temperature);
  ChunkLoss loss = cross_entropy_in_place(values, targets, 1.0 - distillation.weight);
  values.add_(divergence_gradient);
  loss.divergence = divergence * temperature * temperature;
  return loss;
}

}  // namespace

at::Tensor logits(const CausalLm& model, const at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  return chunk_logits(model, hidden);
}

at::Tensor token_log_probs(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const PredictedRows rows = predicted_rows(hidden, ids);
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < rows.targets.size(0); first += kChunkRows) {
    const std::int64_t count = std::min(kChunkRows, rows.targets.size(0) - first);
    const at::Tensor values = chunk_logits(model, rows.hidden.narrow(0, first, count));
    const at::Tensor target = values.gather(1, rows.targets.narrow(0, first, count).unsqueeze(1)).squeeze(1);
    parts.push_back(target - at::logsumexp(values, 1));
  }
  return at::cat(parts).view({ids.size(0), ids.size(1) - 1});
}

HeadLoss head_forward_backward(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& ids, double gradient_scale,
                               const Distillation* distillation) {
  const at::NoGradGuard no_grad;
  const PredictedRows rows = predicted_rows(hidden, ids);
  const at::Tensor teacher_rows = distillation != nullptr ? predicted_rows(distillation->teacher_hidden, ids).hidden : at::Tensor();
  const std::int64_t total = rows.targets.size(0);
  const double mean_scale = gradient_scale / static_cast<double>(total);
  at::Tensor row_gradient = at::empty_like(rows.hidden);
  ChunkLoss sum;
  for (std::int64_t first = 0; first < total; first += kChunkRows) {
    const std::int64_t count = std::min(kChunkRows, total - first);
    const at::Tensor chunk = rows.hidden.narrow(0, first, count);
    const at::Tensor targets = rows.targets.narrow(0, first, count);
    at::Tensor values = chunk_logits(model, chunk);
    ChunkLoss part;
    if (distillation == nullptr) {
      part = cross_entropy_in_place(values, targets, 1.0);
    } else {
      part = distilled_loss_in_place(values, targets, chunk_logits(*distillation->teacher, teacher_rows.narrow(0, first, count)),
                                     *distillation);
    }
    sum.cross_entropy += part.cross_entropy;
    sum.divergence += part.divergence;
    const at::Tensor logit_gradient = values.mul_(mean_scale).to(chunk.scalar_type());
    at::Tensor chunk_gradient;
    matmul::add_input_gradient(chunk_gradient, logit_gradient, model.head_compute());
    row_gradient.narrow(0, first, count).copy_(chunk_gradient);
    add_head_gradient(model.head(), logit_gradient, chunk);
  }
  HeadLoss result;
  const double weight = distillation != nullptr ? distillation->weight : 0.0;
  result.cross_entropy = sum.cross_entropy / static_cast<double>(total);
  result.loss = (1.0 - weight) * result.cross_entropy + weight * sum.divergence / static_cast<double>(total);
  result.hidden_gradient = at::zeros_like(hidden);
  result.hidden_gradient.narrow(1, 0, ids.size(1) - 1).copy_(row_gradient.view({ids.size(0), ids.size(1) - 1, hidden.size(2)}));
  return result;
}

}  // namespace stableqat
