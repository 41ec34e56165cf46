// Start values of scales.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

#include "stableqat/quant/quantizer_spec.h"

namespace stableqat {

// weight [N, M], dense float32 or float64 on the CPU -> scale [N, G], same dtype, by spec.scale_init, per row or group w:
//   kAbsMax  1 bit: mean|w|; 0 and 2 bits: max|w|; 3, 4, 8 bits: max|w| / (2^(bits-1) - 1); kSeq (but 1 bit): max|w|.
//   kMse     smallest sum (w - w_q)^2 of 96 fractions of the kAbsMax scale (1 bit: of max|w|), refined by alternating codes and least
//   squares. kLsq     2 mean|w| / sqrt(q_max); kSeq: times levels per scale, so that its levels are as far apart.
// Scales are at least 1e-5, also for rows of zeros. Not rounded to fp16. Uses all OpenMP threads.
// Throws ConfigError (spec, group size) and DataError (shape, dtype, a weight that is not finite; `name` goes into messages).
at::Tensor initial_scale(const at::Tensor& weight, const QuantizerSpec& spec, std::string_view name = "weight");

}  // namespace stableqat
