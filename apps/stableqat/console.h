// Messages and progress on standard error. A terminal gets one progress line that is redrawn; anything else a plain line every 10 s.
#pragma once

#include <mutex>
#include <string>
#include <string_view>

#include "progress_meter.h"
#include "stableqat/base/log.h"

namespace stableqat::app {

enum class Verbosity { kQuiet, kNormal, kVerbose };

// All members are thread-safe.
class Console {
 public:
  Console();
  ~Console() { finish(); }
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  void set_verbosity(Verbosity verbosity);

  void log(LogLevel level, std::string_view line);
  void error(std::string_view line);  // "stableqat: error: LINE", line ends replaced; shown at every verbosity
  void progress(const Progress& progress);
  void finish();  // leaves the progress line, if one stands, as it is and goes below it

  // The callbacks refer to this object.
  LogCallback log_callback();
  ProgressCallback progress_callback();

 private:
  void write_line(std::string_view line);
  void draw(std::string_view line);
  void end_drawn_line();

  std::mutex mutex_;
  Verbosity verbosity_ = Verbosity::kNormal;
  bool is_terminal_;
  ProgressMeter meter_;
  std::string drawn_;  // the progress line on the screen
};

}  // namespace stableqat::app
