// Fake quantization as an autograd function: the plain path that the fused one is tested against.
#pragma once

#include <ATen/core/Tensor.h>

#include "stableqat/quant/quantizer_spec.h"

namespace stableqat {

// weight [N, M], scale [N, G] (and alpha [1] for DSQ; else undefined), any floating dtype on any device -> w_q [N, M], with the surrogate's
// backward to weight, scale and alpha. Written in tensor operations, independent of the kernels; costs several temporaries of the weight's
// size. Thread-safe. Throws ConfigError (spec, group size, a missing alpha).
at::Tensor fake_quantize_autograd(const at::Tensor& weight, const at::Tensor& scale, const QuantizerSpec& spec,
                                  const at::Tensor& alpha = {});

}  // namespace stableqat
