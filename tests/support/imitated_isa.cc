// best_isa() of programs in which AVX-512 is imitated.
#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

Isa best_isa() noexcept { return Isa::kAmx; }

}  // namespace stableqat::kernels
