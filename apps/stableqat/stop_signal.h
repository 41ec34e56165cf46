// SIGINT and SIGTERM ask the program to stop in an orderly way.
#pragma once

#include "stableqat/base/log.h"

namespace stableqat::app {

// From now on the first SIGINT or SIGTERM makes the returned function say true; the second ends the process at once with exit code 130.
StopRequested stop_on_signals();

}  // namespace stableqat::app
