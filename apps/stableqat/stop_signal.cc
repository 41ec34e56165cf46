#include "stop_signal.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "stableqat/base/error.h"

namespace stableqat::app {

namespace {

// A signal handler can reach nothing but a global.
std::atomic<bool> stop_flag = false;
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_stop_signal(int) {
  if (stop_flag.exchange(true)) ::_exit(static_cast<int>(ExitCode::kInterrupted));
}

}  // namespace

StopRequested stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  return [] { return stop_flag.load(std::memory_order_relaxed); };
}

}  // namespace stableqat::app
