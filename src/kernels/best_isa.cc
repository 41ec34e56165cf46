// In a file of its own, so that tests can put another in its place.
#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

Isa best_isa() noexcept {
#if defined(__x86_64__)
  // The compiler's runtime also asks the operating system whether it saves the registers.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kPlain;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
  return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512Vnni;
#else
  return Isa::kPlain;
#endif
}

}  // namespace stableqat::kernels
