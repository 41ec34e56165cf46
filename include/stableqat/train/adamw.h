// AdamW (Loshchilov and Hutter 2019) over a list of tensors; kernels/adamw_math.h has the arithmetic.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "stableqat/base/row_range.h"
#include "stableqat/kernels/adamw_math.h"

namespace stableqat {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  bool moments_in_bf16 = false;  // CPU: rounded at random, see kernels/adamw_math.h; else of the value's type
  std::uint32_t seed = 0;        // of that rounding
};

// A tensor that is trained, or the rows of one that this rank trains. `value` is shared with its owner.
struct TrainedTensor {
  std::string name;
  at::Tensor value;  // [rows.count, ...], contiguous, float32, or float64 on the CPU; changed in place
  double learning_rate_ratio = 1.0;
  bool decay = false;  // takes part in weight decay
  RowRange rows = {};  // which rows of the whole tensor these are, for checkpoints
  std::int64_t all_rows = 0;
};

// Owns the moments, which start at zero and have the value's shape. A step is begin_step() and then, for each tensor that has a
// gradient, either update() or a kernel of the caller that follows rule(). Not thread-safe; kernels use all OpenMP threads.
class AdamW {
 public:
  AdamW(std::vector<TrainedTensor> tensors, const AdamWOptions& options);

  const std::vector<TrainedTensor>& tensors() const noexcept { return tensors_; }

  // All gradients of the step are multiplied by `gradient_factor` first.
  void begin_step(double learning_rate, double gradient_factor);
  // The same with a factor that only the GPU knows yet: [] float64, there. If it is not finite, the step's updates change nothing, but the
  // step is counted.
  void begin_step(double learning_rate, const at::Tensor& gradient_factor);
  const at::Tensor& gradient_factor_on_gpu() const noexcept { return gradient_factor_on_gpu_; }

  // The constants of the present step for tensor i.
  kernels::AdamWRule rule(std::size_t i) const;

  // Moves tensor i and sets its gradient (dense, shape and type of the value) to zero.
  void update(std::size_t i, const at::Tensor& gradient);

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
  double learning_rate_ = 0.0;
  double gradient_factor_ = 1.0;
  at::Tensor gradient_factor_on_gpu_;  // undefined: gradient_factor_ is it
};

}  // namespace stableqat
