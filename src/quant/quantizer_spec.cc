#include "stableqat/quant/quantizer_spec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat {
namespace {

constexpr std::array kLsqBits{0, 1, 2, 3, 4, 8};
constexpr std::array kSeqBits{0, 1, 2, 3, 4};
constexpr std::array kDsqBits{0, 2, 3, 4, 8};
constexpr double kSeqClip = 0.99;  // ParetoQ's clip_val: keeps the outermost level from taking a half step more

bool one_of(int value, std::span<const int> allowed) { return std::ranges::find(allowed, value) != allowed.end(); }

void set_mask(kernels::QuantRule& rule, double low, double high) {
  rule.mask_low = low;
  rule.mask_high = high;
}

// x is rounded to the integers q_min..q_max.
kernels::QuantRule integer_rule(int bits) {
  kernels::QuantRule rule;
  rule.is_sign = bits == 1;
  rule.clip_low = rule.edge_low = q_min(bits);
  rule.clip_high = rule.edge_high = q_max(bits);
  set_mask(rule, q_min(bits), q_max(bits));
  return rule;
}

// [-1, 1] is cut into 2^bits equal cells (ternary: three), whose middles are the levels.
kernels::QuantRule stretched_rule(int bits) {
  kernels::QuantRule rule;
  rule.levels = bits == 0 ? 1.5 : std::ldexp(1.0, bits - 1);
  rule.shift = bits == 0 ? 0.0 : 0.5;
  rule.code_factor = bits == 0 ? 1.0 : 2.0;
  rule.code_offset = bits == 0 ? 0.0 : 1.0;
  rule.steps_per_scale = rule.levels * rule.code_factor;
  rule.clip_low = -kSeqClip;
  rule.clip_high = kSeqClip;
  rule.edge_high = (rule.levels - rule.shift) / rule.levels;
  rule.edge_low = -rule.edge_high;
  return rule;
}

}  // namespace

int q_min(int bits) { return bits <= 1 ? -1 : -(1 << (bits - 1)); }
int q_max(int bits) { return bits <= 1 ? 1 : (1 << (bits - 1)) - 1; }

void QuantizerSpec::validate() const {
  const std::string found = std::to_string(bits);
  if (!one_of(bits, kLsqBits)) {
    throw ConfigError({"bits", found, "0 (ternary), 1, 2, 3, 4 or 8", "16 leaves a layer unquantized"});
  }
  if (kind == QuantizerKind::kSeq && !one_of(bits, kSeqBits)) {
    throw ConfigError({"bits", found, "0 (ternary), 1, 2, 3 or 4 for seq", "use lsq, or fewer bits"});
  }
  if (kind == QuantizerKind::kDsq && !one_of(bits, kDsqBits)) {
    throw ConfigError({"bits", found, "0 (ternary), 2, 3, 4 or 8 for dsq", "a sign has no interval to soften: use lsq, or more bits"});
  }
  if (kind == QuantizerKind::kDsq && !surrogate.is_straight_through()) {
    throw ConfigError({"surrogate", "Fourier amplitudes with dsq", "none", "dsq has its own surrogate; use lsq for the Fourier one"});
  }
  if (group_size != 0 && group_size != 32 && group_size != 64 && group_size != 128) {
    throw ConfigError({"group_size", std::to_string(group_size), "0 (one scale per row), 32, 64 or 128", ""});
  }
}

std::int64_t QuantizerSpec::scales_per_row(std::int64_t columns, std::string_view where) const {
  if (group_size == 0) return 1;
  if (columns % group_size != 0) {
    throw ConfigError({std::string(where), std::to_string(columns) + " columns", "a multiple of group_size " + std::to_string(group_size),
                       "choose a smaller group_size, 0 for one scale per row, or exclude the layer"});
  }
  return columns / group_size;
}

double QuantizerSpec::scale_gradient_factor(std::int64_t numel) const { return 1.0 / std::sqrt(static_cast<double>(numel) * q_max(bits)); }

kernels::QuantRule QuantizerSpec::rule() const {
  const bool stretched = kind == QuantizerKind::kSeq;
  kernels::QuantRule rule = stretched && bits != 1 ? stretched_rule(bits) : integer_rule(bits);
  if (stretched) set_mask(rule, -kSeqClip, kSeqClip);
  if (kind == QuantizerKind::kDsq) {
    rule.is_soft = true;
    set_mask(rule, q_min(bits) - 0.5, q_max(bits) + 0.5);
  }
  rule.half_scales = fp16_scales;
  for (const double amplitude : surrogate.amplitudes()) {
    rule.amplitudes[rule.amplitude_count++] = std::numbers::sqrt2 * std::numbers::pi * amplitude;
  }
  return rule;
}

}  // namespace stableqat
