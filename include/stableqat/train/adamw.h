// AdamW (Loshchilov and Hutter 2019) over a list of tensors, in the order of operations of PyTorch's implementation.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace stableqat {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
};

// A tensor that is trained. The first two members are shared with their owner.
struct TrainedTensor {
  std::string name;
  at::Tensor value;  // contiguous, float32 or float64; changed in place
  double learning_rate_ratio = 1.0;
  bool decay = false;  // takes part in weight decay
};

// First and second moments start at zero and have the value's shape and type. Not thread-safe; one step uses all OpenMP threads.
class AdamW {
 public:
  AdamW(std::vector<TrainedTensor> tensors, const AdamWOptions& options);

  const std::vector<TrainedTensor>& tensors() const noexcept { return tensors_; }

  // One update: gradients[i] (contiguous, shape and type of tensors()[i].value, or undefined = untouched) is multiplied by
  // `gradient_factor` first.
  void step(const std::vector<at::Tensor>& gradients, double learning_rate, double gradient_factor);

  // State for checkpoints, to be read and written in place.
  const at::Tensor& first_moment(std::size_t i) const { return first_moments_[i]; }
  const at::Tensor& second_moment(std::size_t i) const { return second_moments_[i]; }
  std::int64_t steps() const noexcept { return steps_; }
  void set_steps(std::int64_t steps) noexcept { steps_ = steps; }

 private:
  std::vector<TrainedTensor> tensors_;
  AdamWOptions options_;
  std::vector<at::Tensor> first_moments_;
  std::vector<at::Tensor> second_moments_;
  std::int64_t steps_ = 0;
};

}  // namespace stableqat
