#pragma once

#include <bit>
#include <cstdint>

#include "stableqat/base/isa_namespace.h"

namespace stableqat::kernels {
inline namespace STABLEQAT_ISA {

// exp(x) for x <= 0, within 2 units in the last place; 0 below -87.3, where the result would be subnormal; NaN for NaN. Branch-free, so
// that loops around it are vectorized. x = n ln 2 + r with |r| <= ln(2)/2; exp(r) by a polynomial that is 1 + r exactly in its first two
// terms (minimax by Remez exchange, 3.1e-9); 2^n goes into the exponent's bits.
inline float exp_nonpositive(float x) {
  constexpr float kMagic = 12582912.0F;     // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  constexpr float kLn2High = 0.693359375F;  // 9 bits, so that its product with n is exact
  constexpr float kLn2Low = -2.12194440e-4F;
  const float shifted = x * 1.44269504F + kMagic;
  const float n = shifted - kMagic;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float sum = 0.00138145837F;
  sum = sum * r + 0.00836872403F;
  sum = sum * r + 0.041668389F;
  sum = sum * r + 0.166665211F;
  sum = sum * r + 0.49999994F;
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + 0x3f800000U);
  const float value = (1.0F + r * (1.0F + r * sum)) * power;
  return x < -87.3F ? 0.0F : value;
}

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
