// What a quantizer is: kind, bits, surrogate, groups, start scale. Plain settings without LibTorch.
//
// Legend: N rows (out features), M columns (in features), G scales per row.
#pragma once

#include <cstdint>
#include <string_view>

#include "stableqat/kernels/quant_rule.h"
#include "stableqat/quant/surrogate.h"

namespace stableqat {

enum class QuantizerKind {
  kLsq,  // symmetric, learned step size; the forward of StableQAT and of the STE baseline
  kSeq,  // ParetoQ's stretched elastic quantizer: levels at odd half steps (2, 3, 4 bits); scale = its alpha
  kDsq   // differentiable soft quantization: LSQ's forward, a tanh per interval backward, with a learned alpha
};

enum class ScaleInit {
  kAbsMax,  // the authors': max|w| / q_max, see initial_scale()
  kMse,     // smallest squared error per scale
  kLsq      // 2 mean|w| / sqrt(q_max)
};

// Integer range of the codes of kLsq and kDsq: 1 bit (sign) and 0 bits (ternary) -1..1, else -2^(bits-1)..2^(bits-1)-1.
// kSeq's codes are odd, -(2^bits - 1)..2^bits - 1 (ternary and 1 bit: -1..1).
int q_min(int bits);
int q_max(int bits);

struct QuantizerSpec {
  QuantizerKind kind = QuantizerKind::kLsq;
  int bits = 4;                 // 0 (ternary), 1 (sign), 2, 3, 4, 8. "Not quantized" (16) is the caller's case.
  Surrogate surrogate = {};     // for kLsq and kSeq; kDsq has its own and takes none
  std::int64_t group_size = 0;  // columns that share a scale: 32, 64 or 128; 0 = the whole row
  ScaleInit scale_init = ScaleInit::kAbsMax;
  bool fp16_scales = true;  // the step (see QuantizedWeight) is rounded to the fp16 grid before use

  // Throws ConfigError unless bits, group size and surrogate fit the kind: kSeq has 0-4 bits, kDsq 0, 2, 3, 4, 8 and no surrogate.
  void validate() const;

  // G for M columns. Throws ConfigError, naming `where` (the layer), when the group size does not divide them.
  std::int64_t scales_per_row(std::int64_t columns, std::string_view where = "group_size") const;

  // LSQ's factor of the scale gradient, 1 / sqrt(numel * q_max), numel = N * M of the whole tensor.
  double scale_gradient_factor(std::int64_t numel) const;

  // Numbers for the kernels. Needs a valid spec.
  kernels::QuantRule rule() const;

  friend bool operator==(const QuantizerSpec&, const QuantizerSpec&) = default;
};

}  // namespace stableqat
