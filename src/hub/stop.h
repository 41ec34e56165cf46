// How a requested stop leaves deep calls: by an exception that never leaves the module.
#pragma once

#include "stableqat/base/log.h"

namespace stableqat::hub {

struct Stopped {};

inline void throw_if_stopped(const StopRequested& stop) {
  if (stop && stop()) throw Stopped{};
}

}  // namespace stableqat::hub
