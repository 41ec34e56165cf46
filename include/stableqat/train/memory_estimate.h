// How much memory a training run will take at its peak, told before it starts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "stableqat/config/train_config.h"
#include "stableqat/models/model_config.h"

namespace stableqat {

struct MemoryEstimate {
  struct Part {
    std::string name;
    std::uint64_t bytes = 0;
  };
  std::vector<Part> parts;  // without those of no bytes

  // Beside the total, for a while after a checkpoint was begun in the background: copies of what is not on disk when the next update comes.
  // Nothing where the disk takes less time than forward and backward.
  std::uint64_t checkpoint_at_most = 0;

  std::uint64_t total() const;
};

// The most that a step of `config` on `model` keeps in tensors, part by part: weights, quantized weights (codes, dequantized weights,
// scales), gradients, moments, activations kept for backward, head (a chunk of logits), teacher. Counted for the kernels of this project
// (float32, with or without integer products); the plain forms that other precisions run keep more, by a rough factor. `process` is what
// the process takes besides: its resident memory before the model is read. Throws ConfigError (quantization settings). Thread-safe.
// Of `ranks` ranks each keeps the masters, scales and moments of its rows only, and the buckets that it exchanges with the others.
MemoryEstimate estimate_memory(const ModelConfig& model, const TrainConfig& config, std::uint64_t process, int ranks = 1);

// "3.12 GB: weights 0.54 GB, gradients 0.54 GB, ..." and "memory, peak: 3.05 GB, -2 % of the estimate".
std::string describe(const MemoryEstimate& estimate);
std::string describe_peak(std::uint64_t measured, const MemoryEstimate& estimate);

// "3.12 GB"
std::string gigabytes(std::uint64_t bytes);

}  // namespace stableqat
