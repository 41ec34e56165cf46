// One micro-batch: forward, loss, backward into the parameters' gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include "stableqat/models/causal_lm.h"
#include "stableqat/models/head.h"

namespace stableqat {

enum class Recompute {
  kNone,       // keep all activations
  kSelective,  // make the layers' inputs again from what norms and gates keep: two thirds of the memory, no more products
  kBlock       // keep each block's input only and run the block again in backward: a third more arithmetic, memory of one block
};

// A full-precision model whose distribution the student is drawn to.
struct Teacher {
  const CausalLm* model = nullptr;
  double weight = 0.0;  // of the divergence; 1 - weight is the data loss's
  double temperature = 1.0;

  bool operator==(const Teacher&) const = default;
};

// ids [B, T] int64, T >= 2. Adds d(gradient_scale * loss) / d parameter to each parameter's .grad. The result's hidden_gradient is empty.
// Not thread-safe.
HeadLoss forward_backward(CausalLm& model, const at::Tensor& ids, double gradient_scale, Recompute recompute,
                          const Teacher* teacher = nullptr);

}  // namespace stableqat
