#include "version.h"

#include "commands.h"

namespace stableqat::app {

std::string version() { return STABLEQAT_VERSION; }

std::string commit() { return STABLEQAT_COMMIT; }

}  // namespace stableqat::app
