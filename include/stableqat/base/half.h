// Exact conversions between fp32 and the 16-bit formats IEEE fp16 and bfloat16, as bit patterns.
// Rounding is to nearest, ties to even; NaN stays NaN (quiet). Results do not depend on flush-to-zero modes. Pure functions, thread-safe.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "stableqat/base/isa_namespace.h"

namespace stableqat {
inline namespace STABLEQAT_ISA {

constexpr float half_to_float(std::uint16_t half) noexcept {
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t mantissa = half & 0x3ffU;
  // Bit pattern for normal numbers; 31 is infinity and NaN, whose fp32 exponent is 255.
  const std::uint32_t rebias = exponent == 31 ? 255 - 31 : 127 - 15;
  const std::uint32_t normal = ((exponent + rebias) << 23) | (mantissa << 13);
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(mantissa)) * 0x1p-24f);
  const std::uint32_t sign = (half & 0x8000U) << 16;
  return std::bit_cast<float>((exponent == 0 ? subnormal : normal) | sign);
}

constexpr std::uint16_t float_to_half(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  // 0.5 has an ulp of 2^-24, the step of fp16's subnormals: the addition itself rounds, and leaves the code in the low bits.
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude < 0x38800000U ? magnitude : 0U) + 0.5f) - 0x3f000000U;
  // Adding just under half a step, plus the last kept bit, carries where nearest-even rounds up; a carry into the exponent is right as it
  // is.
  const std::uint32_t normal = (magnitude + 0xfffU + ((magnitude >> 13) & 1U) - 0x38000000U) >> 13;
  const std::uint32_t nan = 0x7e00U | ((magnitude >> 13) & 0x1ffU);
  std::uint32_t half = magnitude < 0x38800000U ? subnormal : normal;
  half = magnitude >= 0x47800000U ? 0x7c00U : half;  // 2^16 and above
  half = magnitude > 0x7f800000U ? nan : half;
  return static_cast<std::uint16_t>(half | ((bits >> 16) & 0x8000U));
}

constexpr float bfloat16_to_float(std::uint16_t value) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16); }

constexpr std::uint16_t float_to_bfloat16(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
}

// The same for spans: `out` has at least as many elements as `in`; they do not overlap.
inline void half_to_float(std::span<const std::uint16_t> in, std::span<float> out) noexcept {
  for (std::size_t i = 0; i < in.size(); ++i) out[i] = half_to_float(in[i]);
}
inline void float_to_half(std::span<const float> in, std::span<std::uint16_t> out) noexcept {
  for (std::size_t i = 0; i < in.size(); ++i) out[i] = float_to_half(in[i]);
}
inline void bfloat16_to_float(std::span<const std::uint16_t> in, std::span<float> out) noexcept {
  for (std::size_t i = 0; i < in.size(); ++i) out[i] = bfloat16_to_float(in[i]);
}
inline void float_to_bfloat16(std::span<const float> in, std::span<std::uint16_t> out) noexcept {
  for (std::size_t i = 0; i < in.size(); ++i) out[i] = float_to_bfloat16(in[i]);
}

}  // namespace STABLEQAT_ISA
}  // namespace stableqat
