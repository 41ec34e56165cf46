#include "stableqat/train/adamw.h"

#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "quant/gpu.h"
#include "quant/tensor_dispatch.h"
#include "stableqat/kernels/update.h"

namespace stableqat {

AdamW::AdamW(std::vector<TrainedTensor> tensors, const AdamWOptions& options) : tensors_(std::move(tensors)), options_(options) {
  for (const TrainedTensor& tensor : tensors_) {
    const at::ScalarType type = options.moments_in_bf16 ? at::kBFloat16 : tensor.value.scalar_type();
    first_moments_.push_back(at::zeros_like(tensor.value, tensor.value.options().dtype(type)));
    second_moments_.push_back(at::zeros_like(tensor.value, tensor.value.options().dtype(type)));
  }
}

void AdamW::begin_step(double learning_rate, double gradient_factor) {
  ++steps_;
  learning_rate_ = learning_rate;
  gradient_factor_ = gradient_factor;
  gradient_factor_on_gpu_ = at::Tensor();
}

void AdamW::begin_step(double learning_rate, const at::Tensor& gradient_factor) {
  begin_step(learning_rate, 1.0);
  gradient_factor_on_gpu_ = gradient_factor;
}

namespace {

// Differs between any two steps of a tensor, and between any two tensors in a step.
std::uint32_t seed_of(std::uint32_t seed, std::int64_t step, std::size_t tensor) {
  return seed * 0xc2b2ae35U + static_cast<std::uint32_t>(step) * 0x9e3779b1U + static_cast<std::uint32_t>(tensor) * 0x85ebca6bU;
}

std::int64_t first_element(const TrainedTensor& tensor) {
  return tensor.rows.count == 0 ? 0 : tensor.rows.first * (tensor.value.numel() / tensor.rows.count);
}

}  // namespace

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
          .step_size = rate / correction(options_.beta1),
          .seed = seed_of(options_.seed, steps_, i),
          .first_element = first_element(tensor)};
}

void AdamW::update(std::size_t i, const at::Tensor& gradient) {
  const at::Tensor& value = tensors_[i].value;
  if (gpu::is_on(value)) {
    gpu::require_together({value, gradient, gradient_factor_on_gpu_});
    gpu::check(gpu::kernels().update_plain(gpu::stream_of(value), rule(i), gpu::factor_pointer(gradient_factor_on_gpu_), value.numel(),
                                           value.mutable_data_ptr<float>(), gradient.mutable_data_ptr<float>(),
                                           first_moments_[i].mutable_data_ptr<float>(), second_moments_[i].mutable_data_ptr<float>()));
    return;
  }
  detail::with_float_type(value, [&](auto type) {
    using T = decltype(type);
    const kernels::UpdateKernels<T>& table = kernels::update_kernels<T>();
    const auto move = [&](auto kernel, auto* first, auto* second) {
      kernel(rule(i), value.numel(), value.mutable_data_ptr<T>(), gradient.mutable_data_ptr<T>(), first, second);
    };
    if (options_.moments_in_bf16) {
      move(table.update_plain_bf16, detail::bf16_bits(first_moments_[i]), detail::bf16_bits(second_moments_[i]));
    } else {
      move(table.update_plain, first_moments_[i].mutable_data_ptr<T>(), second_moments_[i].mutable_data_ptr<T>());
    }
  });
}

}  // namespace stableqat
