// The optimizer step of quantization-aware training: gradients accumulate on the quantized weights over micro-batches, then once per step
// the surrogate maps them to masters and scales, their norm is clipped, AdamW moves them, and the weights are quantized anew.
#pragma once

#include <cstdint>
#include <vector>

#include "stableqat/models/quantized_model.h"
#include "stableqat/train/adamw.h"
#include "stableqat/train/forward_backward.h"

namespace stableqat {

struct TrainStepOptions {
  AdamWOptions adamw;
  double max_grad_norm = 0.0;              // 0 = no clipping
  double scale_learning_rate_ratio = 1.0;  // learning rate of scales and alphas / learning rate
  Recompute recompute = Recompute::kNone;
};

// Norms of the gradients before clipping, over all tensors of a kind.
struct GradientNorms {
  double total = 0.0;
  double projection_weights = 0.0;  // masters of quantized layers and weights of the others inside the blocks
  double scales = 0.0;
};

struct StepReport {
  GradientNorms norms;
  kernels::QuantizeCounts counts;  // of the quantization that follows the update
};

// Gives every parameter a gradient, zero at first, whose memory then stays. Not thread-safe. Keeps a reference to the model.
class TrainStep {
 public:
  TrainStep(QuantizedModel& model, const TrainStepOptions& options);

  // Forward and backward of one micro-batch, ids [B, T] int64; its gradients, times gradient_scale (1 / number of micro-batches), are
  // added.
  HeadLoss accumulate(const at::Tensor& ids, double gradient_scale, const Teacher* teacher = nullptr);

  // Maps, clips and applies the accumulated gradients, quantizes anew and sets the gradients to zero. Throws NumericError before anything
  // is changed when the gradient norm is not finite. A tensor without gradient counts as one whose gradient is zero.
  StepReport update(double learning_rate);

  // Trained tensors under their checkpoint names: masters ("....weight"), scales ("....weight_clip_val"), alphas ("....alpha_dsq") and the
  // tensors that are not quantized.
  AdamW& optimizer() noexcept { return optimizer_; }

  // The gradient of each trained tensor as update() would see it, for tests; the accumulated gradients stay.
  std::vector<at::Tensor> mapped_gradients() const;

 private:
  enum class Kind { kPlain, kProjection, kMaster, kScale, kAlpha };
  struct Slot {
    Kind kind = Kind::kPlain;
    std::size_t weight = 0;  // index into the model's quantized weights
    at::Tensor leaf;         // the parameter itself, when it is not quantized
    at::Tensor gradient;     // of this step, once measured; undefined for masters, whose gradient is never written down
  };

  std::vector<TrainedTensor> collect();
  // Fills the slots' gradients.
  GradientNorms measure_gradients();

  QuantizedModel& model_;
  TrainStepOptions options_;
  std::vector<Slot> slots_;  // in step with the optimizer's tensors
  AdamW optimizer_;
};

}  // namespace stableqat
