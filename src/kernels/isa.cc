#include "stableqat/kernels/isa.h"

#include <cstdlib>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat::kernels {

namespace {

Isa isa_from_environment() {
  const char* wanted = std::getenv("STABLEQAT_ISA");
  const Isa best = best_isa();
  if (wanted == nullptr || *wanted == '\0') return best;
  std::string names;
  for (const Isa isa : kAllIsas) {
    if (isa > best) break;
    if (isa_name(isa) == wanted) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw ConfigError({"STABLEQAT_ISA", wanted, "one of " + names, "unset it to let the program choose"});
}

}  // namespace

std::string_view isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::kPlain:
      return "plain";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512_vnni";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "";
}

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

Isa active_isa() {
  static const Isa isa = isa_from_environment();
  return isa;
}

}  // namespace stableqat::kernels
