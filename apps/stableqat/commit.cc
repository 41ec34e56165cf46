#include "commit.h"

#include "commands.h"
#include "stableqat/base/version.h"

namespace stableqat::app {

std::string commit() { return STABLEQAT_COMMIT; }

std::string version_text() { return std::string(version()) + (commit().empty() ? "" : " (" + commit() + ")"); }

}  // namespace stableqat::app
