#include "stableqat/models/logit_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones_like.h>

#include "models/kernel_choice.h"
#include "stableqat/kernels/cross_entropy.h"

namespace stableqat {

namespace {

at::Tensor row_losses(const at::Tensor& logits) { return at::empty({logits.size(0)}, logits.options().dtype(at::kDouble)); }

at::Tensor total(const at::Tensor& losses) { return losses.sum(at::kDouble); }

}  // namespace

at::Tensor target_log_probs_ref(const at::Tensor& logits, const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  return logits.gather(1, targets.unsqueeze(1)).squeeze(1) - at::logsumexp(logits, 1);
}

at::Tensor target_log_probs(const at::Tensor& logits, const at::Tensor& targets) {
  if (!has_kernels(logits)) return target_log_probs_ref(logits, targets);
  at::Tensor log_probs = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  if (gpu::is_on(logits)) {
    gpu::require_together({logits, targets});
    gpu::check(gpu::kernels().log_probs(gpu::stream_of(logits), gpu::element_type(logits), logits.size(0), logits.size(1),
                                        logits.const_data_ptr(), targets.const_data_ptr<std::int64_t>(),
                                        log_probs.mutable_data_ptr<float>()));
    return log_probs;
  }
  kernels::cross_entropy_kernels().log_probs(logits.size(0), logits.size(1), logits.const_data_ptr<float>(),
                                             targets.const_data_ptr<std::int64_t>(), log_probs.data_ptr<float>());
  return log_probs;
}

at::Tensor cross_entropy_in_place_ref(const at::Tensor& logits, const at::Tensor& targets, double scale) {
  const at::NoGradGuard no_grad;
  const at::Tensor loss = -total(target_log_probs_ref(logits, targets));
  logits.sub_(at::logsumexp(logits, 1, true)).exp_();
  const at::Tensor target_column = targets.unsqueeze(1);
  logits.scatter_add_(1, target_column, -at::ones_like(target_column, logits.options()));
  logits.mul_(scale);
  return loss;
}

at::Tensor cross_entropy_in_place(const at::Tensor& logits, const at::Tensor& targets, double scale) {
  if (!has_kernels(logits)) return cross_entropy_in_place_ref(logits, targets, scale);
  const at::Tensor losses = row_losses(logits);
  if (gpu::is_on(logits)) {
    gpu::require_together({logits, targets});
    gpu::check(gpu::kernels().cross_entropy(gpu::stream_of(logits), gpu::element_type(logits), logits.size(0), logits.size(1),
                                            targets.const_data_ptr<std::int64_t>(), static_cast<float>(scale), logits.mutable_data_ptr(),
                                            losses.mutable_data_ptr<double>()));
    return total(losses);
  }
  kernels::cross_entropy_kernels().gradient_in_place(logits.size(0), logits.size(1), targets.const_data_ptr<std::int64_t>(),
                                                     static_cast<float>(scale), logits.data_ptr<float>(), losses.data_ptr<double>());
  return total(losses);
}

DistilledLoss distilled_loss_in_place_ref(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& teacher, double weight,
                                          double temperature, double scale) {
  const at::NoGradGuard no_grad;
  const at::Tensor student_log = at::log_softmax(logits / temperature, 1);
  const at::Tensor teacher_log = at::log_softmax(teacher / temperature, 1);
  const at::Tensor wanted = teacher_log.exp();
  const at::Tensor divergence = total(wanted * (teacher_log - student_log)) * temperature * temperature;
  const at::Tensor divergence_gradient = (student_log.exp() - wanted) * (scale * weight * temperature);
  const at::Tensor cross_entropy = cross_entropy_in_place_ref(logits, targets, scale * (1.0 - weight));
  logits.add_(divergence_gradient);
  return {cross_entropy, divergence};
}

DistilledLoss distilled_loss_in_place(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& teacher, double weight,
                                      double temperature, double scale) {
  if (!has_kernels(logits)) return distilled_loss_in_place_ref(logits, targets, teacher, weight, temperature, scale);
  const at::Tensor losses = row_losses(logits);
  const at::Tensor divergences = row_losses(logits);
  const kernels::DistillationTerms terms{static_cast<float>(weight), static_cast<float>(temperature)};
  if (gpu::is_on(logits)) {
    gpu::require_together({logits, targets, teacher});
    gpu::check(gpu::kernels().distilled(gpu::stream_of(logits), gpu::element_type(logits), logits.size(0), logits.size(1),
                                        targets.const_data_ptr<std::int64_t>(), terms, static_cast<float>(scale), teacher.const_data_ptr(),
                                        logits.mutable_data_ptr(), losses.mutable_data_ptr<double>(),
                                        divergences.mutable_data_ptr<double>()));
    return {total(losses), total(divergences)};
  }
  kernels::cross_entropy_kernels().distilled_gradient_in_place(
      logits.size(0), logits.size(1), targets.const_data_ptr<std::int64_t>(), terms, static_cast<float>(scale),
      teacher.const_data_ptr<float>(), logits.data_ptr<float>(), losses.data_ptr<double>(), divergences.data_ptr<double>());
  return {total(losses), total(divergences)};
}

}  // namespace stableqat
