// Starts a command as several ranks on this machine and watches over them.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/log.h"

namespace stableqat {

struct LaunchOptions {
  int ranks = 1;
  int restarts = 0;                       // how often to start again after a failure that a restart may cure
  std::chrono::milliseconds grace{2000};  // that the other ranks get to end by themselves when one has failed
};

struct LaunchCallbacks {
  // A line that a rank wrote, without its end.
  std::function<void(int rank, bool is_error, std::string_view line)> output;
  LogCallback log;
  StopRequested stop;
};

// Runs `command` (program and arguments) once for each rank, with the variables of launch_environment.h, a free port, OMP_NUM_THREADS (the
// cores shared out, unless it is set) and STABLEQAT_HEARTBEAT (heartbeat.h). The ranks' standard input is empty. Only processes that it
// started are ever sent a signal; they end, too, when this process dies.
//
// When stop() says so, the ranks get SIGTERM, which makes `train` write a checkpoint. When a rank fails, the others get SIGTERM, after
// `grace` SIGKILL, and only what the failed rank still writes is passed on; the log says which rank it was, how it ended and at which step.
// After a signal or an environment error (exit code 4) all ranks are started again, `restarts` times at most.
//
// Returns the exit code of the rank that failed first (kEnvironment for a signal), kInterrupted when one was interrupted, else kDone.
// Throws ConfigError (no command, ranks out of range) and EnvironmentError (no process or no such program). Not thread-safe.
ExitCode launch(const std::vector<std::string>& command, const LaunchOptions& options, const LaunchCallbacks& callbacks);

}  // namespace stableqat
