// Functions of whole registers.
#pragma once

#include "kernels/cpu/exp2.h"
#include "kernels/cpu/vector.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

inline Floats max(Floats a, Floats b) { return a > b ? a : b; }

inline Floats exp2_nonpositive(Floats z) { return exp2_nonpositive_of<Floats, UnsignedInts>(z); }

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
