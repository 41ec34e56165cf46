// Turns reports of progress into lines of text with rate and time left. No input or output.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "stableqat/base/log.h"

namespace stableqat::app {

class ProgressMeter {
 public:
  using Clock = std::chrono::steady_clock;

  // At most one line per `interval`, except for the last of a stage.
  explicit ProgressMeter(Clock::duration interval) : interval_(interval) {}

  // The line to show now, such as "tokenize: 12.0 of 48.0 MB (25 %), 3.1 MB/s, 0:12 left"; nothing when the last one is too recent.
  std::optional<std::string> update(const Progress& progress, Clock::time_point now);

  // True when `progress` belongs to another stage than the report before.
  bool starts_stage(const Progress& progress) const { return !stage_ || *stage_ != progress.stage; }

 private:
  std::string line(const Progress& progress, Clock::time_point now) const;

  Clock::duration interval_;
  std::optional<std::string> stage_;
  Clock::time_point stage_start_;
  Clock::time_point last_line_;
  std::uint64_t done_at_start_ = 0;  // a resumed job starts above 0
  bool is_complete_ = false;
};

}  // namespace stableqat::app
