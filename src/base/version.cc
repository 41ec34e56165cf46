#include "stableqat/base/version.h"

namespace stableqat {

std::string_view version() noexcept { return STABLEQAT_VERSION; }

}  // namespace stableqat
