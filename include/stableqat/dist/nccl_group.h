// Ranks with a GPU each: LibTorch's c10d with NCCL, for tensors on the GPU. Compiled into a library of its own (libstableqat_nccl.so) that
// is opened at run time, where the build has CUDA (docs/cuda.md).
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "stableqat/dist/communicator.h"
#include "stableqat/dist/launch_environment.h"

namespace stableqat {

// Why connect_gpus() cannot be used in this process: no such library, or one of those that it needs is missing. Empty = it can.
// Thread-safe.
std::string nccl_is_missing();

// The exchanges of tensors, which are on the present CUDA device, go by NCCL; texts, numbers and all that tells lost ranks by `control`, a
// communicator of the same ranks from connect(). A Transfer's wait() makes the current CUDA stream wait, not the host; a rank that is gone
// shows in the next exchange by `control`. Throws EnvironmentError (nccl_is_missing(), no connection within `timeout`).
std::unique_ptr<Communicator> connect_gpus(std::unique_ptr<Communicator> control, const LaunchEnvironment& environment,
                                           std::chrono::milliseconds timeout);

}  // namespace stableqat
