// A file that says how far training is, for those who watch over it: STABLEQAT_HEARTBEAT names it.
#pragma once

#include "stableqat/base/log.h"

namespace stableqat::app {

// Passes progress on to `next`; each step of training also rewrites the file as one line, "STEP TOTAL_STEPS SECONDS_SINCE_1970". A file
// that cannot be written is left out.
ProgressCallback with_heartbeat(ProgressCallback next);

}  // namespace stableqat::app
