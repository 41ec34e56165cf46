#pragma once

#include <bit>
#include <cstdint>

#include "stableqat/base/isa_namespace.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

inline constexpr float kLog2E = 1.44269504F;

// 2^z within 2 units in the last place, exactly 1 at 0, for z <= 1; 0 below -126; NaN for the NaN that arithmetic makes. Branch-free.
// Polynomial: minimax by Remez exchange with p(0) = 1, 4e-9. Float is float or a vector of them, Int the integers of its shape.
template <class Float, class Int>
inline Float exp2_nonpositive_of(Float z) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  const Float shifted = z + kMagic;
  const Float f = z - (shifted - kMagic);
  Float sum = f * 1.54696981e-4F + 1.34099862e-3F;
  sum = sum * f + 9.61803088e-3F;
  sum = sum * f + 5.55029730e-2F;
  sum = sum * f + 0.240226511F;
  sum = sum * f + 0.693147225F;
  sum = sum * f + 1.0F;
  const Float value = std::bit_cast<Float>(std::bit_cast<Int>(sum) + (std::bit_cast<Int>(shifted) << 23));
  return z < -126.0F ? Float{} : value;
}

// In loops under `omp simd` it is vectorized.
inline float exp2_nonpositive(float z) { return exp2_nonpositive_of<float, std::uint32_t>(z); }

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
