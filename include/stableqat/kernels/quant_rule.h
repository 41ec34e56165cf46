// What the quantization kernels know of a quantizer: numbers only. Made by quant::make_rule, read by every back end.
#pragma once

#include <cstdint>

#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels {

// Longest Fourier surrogate that the kernels take.
inline constexpr int kMaxAmplitudes = 8;

// One description for all quantizers. With x = w / scale:
//   v = clamp(x, clip_low, clip_high) * levels - shift,   q = round_half_even(v),   code = q * code_factor + code_offset,
//   w_q = code * step,   step = scale / steps_per_scale.
// LSQ and DSQ are v = x; SEQ (ParetoQ's stretched elastic quantizer) rounds to half steps, so its codes are odd; the sign quantizer
// (1 bit) takes code = +1 for x >= 0, else -1.
struct QuantRule {
  bool is_sign = false;
  bool is_soft = false;      // DSQ: gradient by tanh instead of the Fourier surrogate; halves are rounded down
  bool half_scales = false;  // the step is rounded to the fp16 grid before use

  double clip_low = 0;
  double clip_high = 0;
  double levels = 1;
  double shift = 0;
  double code_factor = 1;
  double code_offset = 0;
  double steps_per_scale = 1;

  // Gradient: inside means mask_low <= x <= mask_high. Outside, d w_q / d w = 0 and d w_q / d scale = edge_low or edge_high.
  double mask_low = 0;
  double mask_high = 0;
  double edge_low = 0;
  double edge_high = 0;

  // g = (1 - sum_m b_m cos((2m+1) pi u)) / (1 + the same sum), b_m = sqrt(2) pi a_m, u = v - round(v). No terms: g = 1 (STE).
  int amplitude_count = 0;
  double amplitudes[kMaxAmplitudes] = {};
};

// What one quantization did. Additive over tensors.
struct QuantizeCounts {
  std::int64_t changed = 0;  // codes that differ from the codes found in the output array
  std::int64_t clipped = 0;  // weights with x outside [mask_low, mask_high]

  STABLEQAT_HOST_DEVICE QuantizeCounts& operator+=(const QuantizeCounts& other) noexcept {
    changed += other.changed;
    clipped += other.clipped;
    return *this;
  }
};

}  // namespace stableqat::kernels
