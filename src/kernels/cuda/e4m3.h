// float8 e4m3fn: a sign, four bits of exponent with bias 7, three of mantissa. No infinity; the largest value is 448, steps below 2^-6 are
// 2^-9, and integers up to 16 are exact.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels::cuda {

inline constexpr float kLargestE4m3 = 448.0F;

// To nearest, ties to even; what is larger becomes the largest. NaN stays NaN.
STABLEQAT_HOST_DEVICE inline std::uint8_t float_to_e4m3(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 24) & 0x80U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint8_t>(sign | 0x7fU);
  const float size = std::bit_cast<float>(magnitude);
  if (size >= kLargestE4m3) return static_cast<std::uint8_t>(sign | 0x7eU);
  // 8 of the smallest steps are the first normal number, whose pattern is 8.
  if (size < 0x1p-6F) return static_cast<std::uint8_t>(sign | static_cast<std::uint32_t>(std::rint(size * 0x1p9F)));
  // Just under half a step, plus the last kept bit, carries where ties to even round up.
  const std::uint32_t rounded = (magnitude + 0x7ffffU + ((magnitude >> 20) & 1U)) >> 20;
  return static_cast<std::uint8_t>(sign | (rounded - ((127U - 7U) << 3)));
}

}  // namespace stableqat::kernels::cuda
