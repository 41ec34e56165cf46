// A training run reduced to what is timed: model, optimizer step and random tokens, from the same settings that `train` takes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "stableqat/bench/run_observer.h"
#include "stableqat/config/train_config.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/train_step.h"

namespace stableqat::bench {

// What to train. Of the configuration model.path, quantization, train and data.sequence_length are used.
struct TrainingJob {
  TrainConfig config;
  std::optional<ModelConfig> random_weights;  // a model of random weights in this configuration instead of model.path

  std::int64_t tokens_per_micro_batch() const { return config.train.micro_batch_size * config.data.sequence_length; }
  std::int64_t tokens_per_step() const { return tokens_per_micro_batch() * config.train.gradient_accumulation_steps; }
};

// The model's configuration. Throws DataError for a path that holds no model.
ModelConfig model_config(const TrainingJob& job);

// Sets the number of LibTorch's threads of this process: train.threads, or all cores.
void use_threads(const TrainConfig& config);

// Seconds of one optimizer step; forward, backward and update are its phases (the head, one pass for loss and gradient, is in backward).
struct StepSeconds {
  double total = 0.0;
  double forward = 0.0;
  double backward = 0.0;
  double update = 0.0;
};

// Seconds of one optimizer step by kind of work.
struct StepParts {
  double gemm = 0.0;
  double attention = 0.0;
  double head = 0.0;
  double update = 0.0;  // surrogate, clipping, AdamW, quantization
  double rest = 0.0;
};

// A forward and backward pass in the manner of the paper's cost table: quantization is part of forward; backward ends with the surrogate,
// evaluated on the whole gradient (QuantizedWeight::gradient_sums); there is no optimizer.
struct PassCost {
  double forward_seconds = 0.0;
  double backward_seconds = 0.0;
  std::int64_t forward_bytes = 0;  // most tensor memory alive in that phase, weights and optimizer state included
  std::int64_t backward_bytes = 0;
};

// Calls use_threads(). Not thread-safe. Throws what reading a model throws.
class TrainingSubject {
 public:
  explicit TrainingSubject(const TrainingJob& job);
  // One rank of several, each of which runs all micro-batches of its own: for tests of memory.
  TrainingSubject(const TrainingJob& job, Communicator& communicator);

  // Runs one optimizer step and proves that it computes the right thing: a finite loss; gradients of master, scale and alpha equal to the
  // plain autograd form; AdamW's first step in closed form; codes and dequantized weights equal to the reference quantizer. Looks at
  // the first, middle and last quantized weight (of a full-precision model, AdamW of the first matrix) and at the norms. Call it first,
  // once. Returns the loss before the step. Throws NumericError that names what differs.
  double check();

  StepSeconds step();
  StepParts step_parts();
  PassCost pass();

  int threads() const;

  // Runs a step; the most bytes that tensors took in it, weights and optimizer state included.
  std::int64_t tensor_bytes_of_step();

 private:
  void prepare(const TrainingJob& job);
  void clear_gradients();

  RunObserver observer_;  // first, so that it sees all memory
  TrainConfig config_;
  std::unique_ptr<QuantizedModel> model_;
  std::unique_ptr<TrainStep> step_;
  std::vector<at::Tensor> batches_;  // [B, T] int64, one per micro-batch
};

}  // namespace stableqat::bench
