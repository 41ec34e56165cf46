#include "stableqat/train/adamw.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

namespace stableqat {

namespace {

// Constants of one step, the same for all elements of a tensor.
template <class T>
struct StepConstants {
  T gradient_factor;
  T decay_factor;
  T beta1_complement;
  T beta2;
  T beta2_complement;
  T root_correction2;
  T epsilon;
  T step_size;
};

template <class T>
void update(T* __restrict value, const T* __restrict gradient, T* __restrict first, T* __restrict second, std::int64_t count,
            const StepConstants<T>& k) {
#pragma omp parallel for simd schedule(static)
  for (std::int64_t i = 0; i < count; ++i) {
    const T g = gradient[i] * k.gradient_factor;
    first[i] += k.beta1_complement * (g - first[i]);
    second[i] = second[i] * k.beta2 + k.beta2_complement * g * g;
    value[i] = value[i] * k.decay_factor - k.step_size * (first[i] / (std::sqrt(second[i]) / k.root_correction2 + k.epsilon));
  }
}

}  // namespace

AdamW::AdamW(std::vector<TrainedTensor> tensors, const AdamWOptions& options) : tensors_(std::move(tensors)), options_(options) {
  for (const TrainedTensor& tensor : tensors_) {
    first_moments_.push_back(at::zeros_like(tensor.value));
    second_moments_.push_back(at::zeros_like(tensor.value));
  }
}

void AdamW::step(const std::vector<at::Tensor>& gradients, double learning_rate, double gradient_factor) {
  ++steps_;
  const double correction1 = 1.0 - std::pow(options_.beta1, static_cast<double>(steps_));
  const double correction2 = 1.0 - std::pow(options_.beta2, static_cast<double>(steps_));
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const TrainedTensor& tensor = tensors_[i];
    const double rate = learning_rate * tensor.learning_rate_ratio;
    AT_DISPATCH_FLOATING_TYPES(tensor.value.scalar_type(), "adamw", [&] {
      const StepConstants<scalar_t> k{
          static_cast<scalar_t>(gradient_factor),      static_cast<scalar_t>(tensor.decay ? 1.0 - rate * options_.weight_decay : 1.0),
          static_cast<scalar_t>(1.0 - options_.beta1), static_cast<scalar_t>(options_.beta2),
          static_cast<scalar_t>(1.0 - options_.beta2), static_cast<scalar_t>(std::sqrt(correction2)),
          static_cast<scalar_t>(options_.epsilon),     static_cast<scalar_t>(rate / correction1)};
      update(tensor.value.data_ptr<scalar_t>(), gradients[i].data_ptr<scalar_t>(), first_moments_[i].data_ptr<scalar_t>(),
             second_moments_[i].data_ptr<scalar_t>(), tensor.value.numel(), k);
    });
  }
}

}  // namespace stableqat
