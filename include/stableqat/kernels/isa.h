// Instruction sets that the CPU kernels are built for, and the one that this process uses.
#pragma once

#include <array>
#include <string_view>

namespace stableqat::kernels {

// In rising order: each contains those before it.
enum class Isa {
  kPlain,       // what the compiler's default target allows (x86-64: SSE2); the only one on other architectures
  kAvx2,        // AVX2, FMA
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Vnni,  // + VNNI: dot products of integers
  kAmx          // + AMX TILE, INT8, BF16: products of tiles
};

inline constexpr std::array kAllIsas{Isa::kPlain, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAmx};

// "plain", "avx2", "avx512", "avx512_vnni", "amx": the values of STABLEQAT_ISA.
std::string_view isa_name(Isa isa) noexcept;

// The highest that both the CPU and the operating system support. Asks Linux for the use of AMX registers, which holds for the process.
Isa best_isa() noexcept;

// The one kernels use unless told otherwise: STABLEQAT_ISA from the environment as it was at the first call, else best_isa(). Throws
// ConfigError for a name that is unknown or an instruction set that this machine lacks. Thread-safe.
Isa active_isa();

}  // namespace stableqat::kernels
