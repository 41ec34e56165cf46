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
    case Isa::kAmx:
      return "amx";
  }
  return "";
}

Isa active_isa() {
  static const Isa isa = isa_from_environment();
  return isa;
}

}  // namespace stableqat::kernels
