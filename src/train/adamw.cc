#include "stableqat/train/adamw.h"

#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "quant/tensor_dispatch.h"
#include "stableqat/kernels/update.h"

namespace stableqat {

AdamW::AdamW(std::vector<TrainedTensor> tensors, const AdamWOptions& options) : tensors_(std::move(tensors)), options_(options) {
  for (const TrainedTensor& tensor : tensors_) {
    first_moments_.push_back(at::zeros_like(tensor.value));
    second_moments_.push_back(at::zeros_like(tensor.value));
  }
}

void AdamW::begin_step(double learning_rate, double gradient_factor) {
  ++steps_;
  learning_rate_ = learning_rate;
  gradient_factor_ = gradient_factor;
}

kernels::AdamWRule AdamW::rule(std::size_t i) const {
  const TrainedTensor& tensor = tensors_[i];
  const double rate = learning_rate_ * tensor.learning_rate_ratio;
  const auto correction = [this](double beta) { return 1.0 - std::pow(beta, static_cast<double>(steps_)); };
  return {.gradient_factor = gradient_factor_,
          .decay_factor = tensor.decay ? 1.0 - rate * options_.weight_decay : 1.0,
          .beta1 = options_.beta1,
          .beta2 = options_.beta2,
          .root_correction2 = std::sqrt(correction(options_.beta2)),
          .epsilon = options_.epsilon,
          .step_size = rate / correction(options_.beta1)};
}

void AdamW::update(std::size_t i, const at::Tensor& gradient) {
  const at::Tensor& value = tensors_[i].value;
  detail::with_float_type(value, [&](auto type) {
    using T = decltype(type);
    kernels::update_kernels<T>().update_plain(rule(i), value.numel(), value.mutable_data_ptr<T>(), gradient.mutable_data_ptr<T>(),
                                              first_moments_[i].mutable_data_ptr<T>(), second_moments_[i].mutable_data_ptr<T>());
  });
}

}  // namespace stableqat
