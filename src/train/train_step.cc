#include "stableqat/train/train_step.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "quant/tensor_dispatch.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/update.h"

namespace stableqat {

namespace {

double sum_of_squares(const at::Tensor& tensor) {
  return detail::with_float_type(tensor, [&](auto type) {
    using T = decltype(type);
    return kernels::sum_of_squares<T>(tensor.numel(), tensor.const_data_ptr<T>());
  });
}

}  // namespace

TrainStep::TrainStep(QuantizedModel& model, const TrainStepOptions& options)
    : model_(model), options_(options), optimizer_(collect(), options.adamw) {
  const at::NoGradGuard no_grad;
  for (QuantizedWeight& weight : model_.weights()) weight.clear_gradient();
  for (const Slot& slot : slots_) {
    if (slot.leaf.defined()) detail::dense_gradient(slot.leaf).zero_();
  }
}

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
      add({Kind::kMaster, next, {}, {}}, {name, weight.master(), 1.0, true});
      add({Kind::kScale, next, {}, {}}, {weight.name() + ".weight_clip_val", weight.scale(), options_.scale_learning_rate_ratio, false});
      if (weight.alpha().defined()) {
        add({Kind::kAlpha, next, {}, {}}, {weight.name() + ".alpha_dsq", weight.alpha(), options_.scale_learning_rate_ratio, false});
      }
      ++next;
      return;
    }
    const bool matrix = value.dim() > 1;
    add({role == ParameterRole::kProjection ? Kind::kProjection : Kind::kPlain, 0, value, {}}, {name, value.detach(), 1.0, matrix});
  });
  return tensors;
}

HeadLoss TrainStep::accumulate(const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  return forward_backward(model_.model(), ids, gradient_scale, options_.recompute, teacher);
}

std::vector<at::Tensor> TrainStep::mapped_gradients() const {
  std::vector<at::Tensor> gradients;
  QuantizedWeight::Gradients mapped;
  for (const Slot& slot : slots_) {
    if (slot.kind == Kind::kMaster) {
      mapped = model_.weights()[slot.weight].map_gradient();
      gradients.push_back(std::move(mapped.master));
    } else if (slot.kind == Kind::kScale) {
      gradients.push_back(std::move(mapped.scale));
    } else if (slot.kind == Kind::kAlpha) {
      gradients.push_back(std::move(mapped.alpha));
    } else {
      gradients.push_back(slot.leaf.grad());
    }
  }
  return gradients;
}

GradientNorms TrainStep::measure_gradients() {
  double total = 0.0;
  double projection = 0.0;
  double scales = 0.0;
  QuantizedWeight::GradientSums sums;  // of the weight whose slots follow each other
  for (Slot& slot : slots_) {
    if (slot.kind == Kind::kMaster) {
      sums = model_.weights()[slot.weight].gradient_sums();
    } else if (slot.kind == Kind::kScale) {
      slot.gradient = std::move(sums.scale);
    } else if (slot.kind == Kind::kAlpha) {
      slot.gradient = std::move(sums.alpha);
    } else {
      slot.gradient = detail::dense_gradient(slot.leaf);
    }
    const double squares = slot.kind == Kind::kMaster ? sums.master_squares : sum_of_squares(slot.gradient);
    total += squares;
    if (slot.kind == Kind::kMaster || slot.kind == Kind::kProjection) projection += squares;
    if (slot.kind == Kind::kScale) scales += squares;
  }
  return {std::sqrt(total), std::sqrt(projection), std::sqrt(scales)};
}

StepReport TrainStep::update(double learning_rate) {
  const at::NoGradGuard no_grad;
  StepReport report;
  report.norms = measure_gradients();
  if (!std::isfinite(report.norms.total)) {
    throw NumericError({"gradient", "a norm that is not finite", "finite gradients",
                        "lower train.learning_rate, or check the data of this step; the weights are those of the step before"});
  }
  double factor = 1.0;
  if (options_.max_grad_norm > 0.0) factor = std::min(1.0, options_.max_grad_norm / (report.norms.total + 1e-6));
  optimizer_.begin_step(learning_rate, factor);
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].kind != Kind::kMaster) optimizer_.update(i, slots_[i].gradient);
  }
  // Masters last: they are quantized with the new scales.
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].kind != Kind::kMaster) continue;
    QuantizedWeight& weight = model_.weights()[slots_[i].weight];
    report.counts += weight.update(optimizer_.rule(i), optimizer_.first_moment(i), optimizer_.second_moment(i));
  }
  model_.refresh_products();
  return report;
}

}  // namespace stableqat
