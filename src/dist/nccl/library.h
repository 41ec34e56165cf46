// The only symbol of libstableqat_nccl.so.
#pragma once

#include <chrono>
#include <memory>

#include "stableqat/dist/communicator.h"
#include "stableqat/dist/launch_environment.h"

namespace stableqat {

using ConnectNccl = std::unique_ptr<Communicator>(std::unique_ptr<Communicator> control, const LaunchEnvironment& environment,
                                                  std::chrono::milliseconds timeout);
inline constexpr const char* kConnectNccl = "stableqat_connect_nccl";

}  // namespace stableqat
