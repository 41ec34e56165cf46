// Ranks connected over the network: LibTorch's c10d with Gloo, for tensors on the CPU.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "stableqat/dist/communicator.h"
#include "stableqat/dist/launch_environment.h"

namespace stableqat {

// Meets the other ranks at address:port and connects to all of them. `timeout` bounds the meeting, and afterwards each exchange: a rank
// that is silent for longer counts as lost, one that died is noticed at once. A single rank needs no network. GLOO_SOCKET_IFNAME names the
// network interface to use, else the one of this machine's host name. Sets the environment variable TORCH_FR_BUFFER_SIZE to 0 unless it is
// set (LibTorch's recorder of exchanges is not thread-safe), so no other thread may read the environment meanwhile. Throws EnvironmentError
// (port in use, ranks that did not come).
std::unique_ptr<Communicator> connect(const LaunchEnvironment& environment, std::chrono::milliseconds timeout);

// For tests: runs `body` as ranks 0 to ranks - 1 in threads of this process, and throws the error of the first rank that
// threw one other than LostRankError, else that.
void run_as_threads(int ranks, std::chrono::milliseconds timeout, const std::function<void(Communicator&)>& body);

}  // namespace stableqat
