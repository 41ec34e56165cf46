// Functions of whole registers.
#pragma once

#include <bit>

#include "kernels/cpu/vector.h"

namespace stableqat::kernels::STABLEQAT_ISA {

inline Floats max(Floats a, Floats b) { return a > b ? a : b; }

// 2^z within 2 units in the last place, exactly 1 at 0, for z <= 1; 0 below -126. Polynomial: minimax by Remez exchange with p(0) = 1,
// 4e-9.
inline Floats exp2_nonpositive(Floats z) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
  const Floats shifted = z + kMagic;
  const Floats f = z - (shifted - kMagic);
  Floats sum = f * 1.54696981e-4F + 1.34099862e-3F;
  sum = sum * f + 9.61803088e-3F;
  sum = sum * f + 5.55029730e-2F;
  sum = sum * f + 0.240226511F;
  sum = sum * f + 0.693147225F;
  sum = sum * f + 1.0F;
  const auto value = std::bit_cast<Floats>(std::bit_cast<Ints>(sum) + (std::bit_cast<Ints>(shifted) << 23));
  return z < -126.0F ? Floats{} : value;
}

}  // namespace stableqat::kernels::STABLEQAT_ISA
