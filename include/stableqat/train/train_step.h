// The optimizer step of quantization-aware training: gradients accumulate on the quantized weights over micro-batches, then once per step
// the surrogate maps them to masters and scales, their norm is clipped, AdamW moves them, and the weights are quantized anew.
//
// Over several ranks each trains some rows of every tensor (rows_of_rank): it gets the sums of their gradients over all ranks, holds their
// masters, scales and moments, moves and quantizes them, and all ranks get each other's packed codes and steps.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "stableqat/dist/communicator.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/adamw.h"
#include "stableqat/train/forward_backward.h"

namespace stableqat {

struct TrainStepOptions {
  AdamWOptions adamw;
  double max_grad_norm = 0.0;              // 0 = no clipping
  double scale_learning_rate_ratio = 1.0;  // learning rate of scales and alphas / learning rate
  Recompute recompute = Recompute::kNone;
  bool reduce_in_bf16 = false;                                 // gradients are rounded to bf16 to be sent; sums are not
  std::int64_t bucket_bytes = std::int64_t{25} * 1024 * 1024;  // of gradients or weights that are exchanged at a time
};

class GradientExchange;
class WeightExchange;

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

// Gives every parameter a gradient, zero at first, whose memory then stays. Not thread-safe. Keeps references to the model and the
// communicator.
class TrainStep {
 public:
  TrainStep(QuantizedModel& model, const TrainStepOptions& options);
  // One rank of several: quantized weights keep their own rows only. The model is the same on all ranks.
  TrainStep(QuantizedModel& model, const TrainStepOptions& options, Communicator& communicator);
  ~TrainStep();

  // Forward and backward of one micro-batch, ids [B, T] int64; its gradients, times gradient_scale (1 / number of micro-batches of all
  // ranks), are added.
  HeadLoss accumulate(const at::Tensor& ids, double gradient_scale, const Teacher* teacher = nullptr);
  // The same for a rank's last micro-batch of the step, after which the gradients of all ranks are summed; that begins while backward runs.
  HeadLoss accumulate_last(const at::Tensor& ids, double gradient_scale, const Teacher* teacher = nullptr);

  // Maps, clips and applies the accumulated gradients, quantizes anew and sets the gradients to zero. Throws NumericError before anything
  // is changed when the gradient norm is not finite. A tensor without gradient counts as one whose gradient is zero. All ranks report the
  // same and throw the same.
  StepReport update(double learning_rate);

  // Quantizes anew, on all ranks, after the trained tensors were set (from a checkpoint).
  void quantize();

  // Trained tensors under their checkpoint names: masters ("....weight"), scales ("....weight_clip_val"), alphas ("....alpha_dsq") and the
  // tensors that are not quantized.
  AdamW& optimizer() noexcept { return optimizer_; }

  // The gradient of each trained tensor as update() of a single rank would see it, for tests; the accumulated gradients stay.
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
  void connect();
  RowRange own_rows(const at::Tensor& tensor) const;
  // Fills the slots' gradients.
  GradientNorms measure_gradients();
  // `squares` in step with the slots.
  GradientNorms norms_of(const std::vector<double>& squares);

  QuantizedModel& model_;
  TrainStepOptions options_;
  std::unique_ptr<Communicator> alone_;  // where the caller has none
  Communicator& communicator_;
  std::vector<Slot> slots_;  // in step with the optimizer's tensors
  AdamW optimizer_;
  std::unique_ptr<GradientExchange> gradients_;  // absent for one rank
  std::unique_ptr<WeightExchange> weights_;
};

}  // namespace stableqat
