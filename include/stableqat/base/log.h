// How the library speaks to its caller: messages and progress go to callbacks; the library itself prints nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace stableqat {

enum class LogLevel { kDebug, kInfo, kWarning };

// Receives one line without a line end. May be called from several threads at once; empty = silent.
using LogCallback = std::function<void(LogLevel, std::string_view)>;

// State of a long job. `total` 0 = unknown. `unit` is a plural noun ("tokens", "bytes", "steps"). `detail` is shown behind the numbers.
struct Progress {
  std::string_view stage;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  std::string_view unit;
  std::string_view detail = {};
};

// Called often (the receiver limits its own output rate), from one thread at a time; empty = silent.
using ProgressCallback = std::function<void(const Progress&)>;

// Asked between pieces of work; true = stop in an orderly way. Must be thread-safe and cheap; empty = never.
using StopRequested = std::function<bool()>;

}  // namespace stableqat
