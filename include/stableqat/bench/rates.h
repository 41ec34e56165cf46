// The rates that bound training on this machine, measured with LibTorch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "stableqat/models/model_config.h"

namespace stableqat::bench {

// Floating-point operations (a multiply and an add are two) of one training micro-batch [B, T], forward and backward.
struct TrainingFlops {
  double weights = 0.0;    // products with weight matrices, output head included: what the GEMM rate bounds
  double attention = 0.0;  // the causal half of q k and p v, and of their gradients
};
TrainingFlops training_flops(const ModelConfig& config, std::int64_t batch, std::int64_t tokens);

// All products with weights of a training micro-batch of `rows` tokens, done by LibTorch alone: per distinct matrix y = x w^T, dx = dy w,
// dw += dy^T x, the head in chunks of rows.
class GemmReference {
 public:
  // `options`: type and device of the products.
  GemmReference(const ModelConfig& config, std::int64_t rows, const at::TensorOptions& options = at::kFloat);

  // Times every distinct product once (the first call also touches the memory) and weighs them as often as the model has them: operations
  // per second. Uses all threads of LibTorch.
  double flops_per_second();

 private:
  struct Product {
    double count;  // in a micro-batch
    at::Tensor x, w, y, dy, dx, dw;
  };
  std::vector<Product> products_;
};

// Bytes read + bytes written per second by a copy of `bytes` bytes (at least 64 MB, so that caches do not help) with all threads of
// LibTorch.
class CopyReference {
 public:
  explicit CopyReference(std::int64_t bytes = std::int64_t{256} << 20);
  double bytes_per_second();

 private:
  at::Tensor source_, target_;
};

}  // namespace stableqat::bench
