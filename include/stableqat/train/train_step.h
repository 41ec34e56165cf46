// The optimizer step of quantization-aware training: gradients accumulate on the quantized weights over micro-batches, then once per step
// the surrogate maps them to masters and scales, their norm is clipped, AdamW moves them, and the weights are quantized anew.
//
// Over several ranks each trains some rows of every tensor (rows_of_rank): it gets the sums of their gradients over all ranks, holds their
// masters, scales and moments, moves and quantizes them, and all ranks get each other's packed codes and steps.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
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
  bool cuda_graph = false;                                     // on a GPU: micro-batches alike are replays of one that was recorded
  bool reduce_in_bf16 = false;                                 // gradients are rounded to bf16 to be sent; sums are not
  std::int64_t bucket_bytes = std::int64_t{25} * 1024 * 1024;  // of gradients or weights that are exchanged at a time
};

class CapturedMicroStep;
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

// The same as TrainStep::start_update() leaves it: norms.total, .projection_weights, .scales, counts.changed, .clipped.
inline constexpr std::int64_t kStepNumbers = 5;
StepReport step_report(std::span<const double> numbers);

// Throws NumericError for a total that is not finite.
void require_finite(const GradientNorms& norms);

// Gives every parameter a gradient, zero at first, whose memory then stays. Not thread-safe. Keeps references to the model and the
// communicator.
class TrainStep {
 public:
  // Throws ConfigError for options.cuda_graph without a GPU or with several ranks, EnvironmentError where its library is missing.
  TrainStep(QuantizedModel& model, const TrainStepOptions& options);
  // One rank of several: quantized weights keep their own rows only. The model is the same on all ranks.
  TrainStep(QuantizedModel& model, const TrainStepOptions& options, Communicator& communicator);
  ~TrainStep();

  // Forward and backward of one micro-batch, ids [B, T] int64; its gradients, times gradient_scale (1 / number of micro-batches of all
  // ranks), are added.
  HeadLoss accumulate(const at::Tensor& ids, double gradient_scale, const Teacher* teacher = nullptr);
  // The same for a rank's last micro-batch of the step, after which the gradients of all ranks are summed; that begins while backward runs.
  HeadLoss accumulate_last(const at::Tensor& ids, double gradient_scale, const Teacher* teacher = nullptr);

  // Micro-batches so far that were replays of a recorded one (options.cuda_graph).
  std::int64_t replays() const noexcept;

  // Maps, clips and applies the accumulated gradients, quantizes anew and sets the gradients to zero. Throws NumericError before anything
  // is changed when the gradient norm is not finite. A tensor without gradient counts as one whose gradient is zero. All ranks report the
  // same and throw the same.
  StepReport update(double learning_rate);

  // update() that does not wait for a GPU. Returns the step's numbers, [kStepNumbers] float64 where the model is. If runs_ahead(), it does
  // not throw: when the norm is not finite, or a loss of the step's micro-batches, the norm's total is so, and the GPU leaves out this step
  // and all that follow. Whoever reads that tells take_back() how many those are.
  at::Tensor start_update(double learning_rate);
  void take_back(std::int64_t steps);

  // Whether steps can be started without waiting for the one before: on a GPU. Not with DSQ, whose alphas the CPU moves.
  bool runs_ahead() const noexcept { return runs_ahead_; }

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
  static bool is_projection(Kind kind) { return kind == Kind::kMaster || kind == Kind::kProjection; }
  void connect();
  bool can_run_ahead() const;
  RowRange own_rows(const at::Tensor& tensor) const;
  // Fills the slots' gradients. Returns the norms as step_report() has them, [3] float64: on the GPU if runs_ahead(), else on the CPU.
  at::Tensor measure_gradients();
  // `squares` in step with the slots.
  at::Tensor norms_of(const std::vector<double>& squares);
  // The same from tensors that sum to the squares.
  at::Tensor norms_on_gpu(const std::vector<at::Tensor>& squares) const;
  void begin_clipped_step(double learning_rate, const at::Tensor& norms);
  // Of the quantizations of all ranks, as step_report() has them.
  at::Tensor counts(at::Device device);

  QuantizedModel& model_;
  TrainStepOptions options_;
  std::unique_ptr<Communicator> alone_;  // where the caller has none
  Communicator& communicator_;
  std::vector<Slot> slots_;  // in step with the optimizer's tensors
  AdamW optimizer_;
  std::unique_ptr<CapturedMicroStep> captured_;  // with options.cuda_graph
  std::unique_ptr<GradientExchange> gradients_;  // absent for one rank
  std::unique_ptr<WeightExchange> weights_;
  bool runs_ahead_ = false;
  at::Tensor soundness_;  // if runs_ahead(): not finite once a loss of this step's micro-batches, or the norm of a step before, is not
};

}  // namespace stableqat
