#include "stableqat/train/train_step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat {

TrainStep::TrainStep(QuantizedModel& model, const TrainStepOptions& options)
    : model_(model), options_(options), optimizer_(collect(), options.adamw) {}

std::vector<TrainedTensor> TrainStep::collect() {
  std::vector<TrainedTensor> tensors;
  const auto add = [&](Slot slot, TrainedTensor tensor) {
    slots_.push_back(std::move(slot));
    tensors.push_back(std::move(tensor));
  };
  std::vector<QuantizedWeight>& weights = model_.weights();
  std::size_t next = 0;
  model_.model().visit_parameters([&](const std::string& name, ParameterRole role, at::Tensor& value) {
    if (next < weights.size() && weights[next].dequantized().is_same(value)) {
      const QuantizedWeight& weight = weights[next];
      add({Kind::kMaster, next, {}}, {name, weight.master(), 1.0, true});
      add({Kind::kScale, next, {}}, {weight.name() + ".weight_clip_val", weight.scale(), options_.scale_learning_rate_ratio, false});
      if (weight.alpha().defined()) {
        add({Kind::kAlpha, next, {}}, {weight.name() + ".alpha_dsq", weight.alpha(), options_.scale_learning_rate_ratio, false});
      }
      ++next;
      return;
    }
    const bool matrix = value.dim() > 1;
    add({role == ParameterRole::kProjection ? Kind::kProjection : Kind::kPlain, 0, value}, {name, value.detach(), 1.0, matrix});
  });
  return tensors;
}

HeadLoss TrainStep::accumulate(const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  return forward_backward(model_.model(), ids, gradient_scale, options_.recompute, teacher);
}

std::vector<at::Tensor> TrainStep::gradients(bool take) {
  std::vector<at::Tensor> gradients;
  QuantizedWeight::Gradients mapped;
  for (Slot& slot : slots_) {
    if (slot.kind == Kind::kMaster) {
      QuantizedWeight& weight = model_.weights()[slot.weight];
      mapped = take ? weight.take_gradient() : weight.map_gradient();
      gradients.push_back(std::move(mapped.master));
    } else if (slot.kind == Kind::kScale) {
      gradients.push_back(std::move(mapped.scale));
    } else if (slot.kind == Kind::kAlpha) {
      gradients.push_back(std::move(mapped.alpha));
    } else {
      gradients.push_back(slot.leaf.grad());
      if (take) slot.leaf.mutable_grad() = at::Tensor();
    }
  }
  return gradients;
}

GradientNorms TrainStep::norms(const std::vector<at::Tensor>& gradients) const {
  double total = 0.0;
  double projection = 0.0;
  double scales = 0.0;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const double norm = at::linalg_vector_norm(gradients[i], 2, {}, false, at::kDouble).item<double>();
    total += norm * norm;
    if (slots_[i].kind == Kind::kMaster || slots_[i].kind == Kind::kProjection) projection += norm * norm;
    if (slots_[i].kind == Kind::kScale) scales += norm * norm;
  }
  return {std::sqrt(total), std::sqrt(projection), std::sqrt(scales)};
}

StepReport TrainStep::update(double learning_rate) {
  const at::NoGradGuard no_grad;
  StepReport report;
  const std::vector<at::Tensor> mapped = gradients(true);
  report.norms = norms(mapped);
  if (!std::isfinite(report.norms.total)) {
    throw NumericError({"gradient", "a norm that is not finite", "finite gradients",
                        "lower train.learning_rate, or check the data of this step; the weights are those of the step before"});
  }
  double factor = 1.0;
  if (options_.max_grad_norm > 0.0) factor = std::min(1.0, options_.max_grad_norm / (report.norms.total + 1e-6));
  optimizer_.step(mapped, learning_rate, factor);
  report.counts = model_.quantize();
  return report;
}

}  // namespace stableqat
