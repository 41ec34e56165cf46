// In a file of its own, so that tests can put another in its place.
#include "stableqat/kernels/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace stableqat::kernels {

#if defined(__x86_64__)
namespace {

// Linux gives the tile registers to processes that ask for them (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() noexcept {
#if defined(__linux__)
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned kTileBf16Int8 = 1U << 24 | 1U << 22 | 1U << 25;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kTileBf16Int8) != kTileBf16Int8) return false;
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif

Isa best_isa() noexcept {
#if defined(__x86_64__)
  // The compiler's runtime also asks the operating system whether it saves the registers.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::kPlain;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
  return may_use_tiles() ? Isa::kAmx : Isa::kAvx512Vnni;
#else
  return Isa::kPlain;
#endif
}

}  // namespace stableqat::kernels
