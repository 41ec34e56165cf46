#include "console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace stableqat::app {

namespace {

using namespace std::chrono_literals;

std::size_t terminal_width() {
  struct winsize size {};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

void put(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

}  // namespace

Console::Console() : is_terminal_(::isatty(STDERR_FILENO) == 1), meter_(is_terminal_ ? ProgressMeter::Clock::duration(100ms) : 10s) {}

void Console::set_verbosity(Verbosity verbosity) {
  const std::lock_guard lock(mutex_);
  verbosity_ = verbosity;
}

void Console::log(LogLevel level, std::string_view line) {
  const std::lock_guard lock(mutex_);
  if (level == LogLevel::kDebug && verbosity_ != Verbosity::kVerbose) return;
  if (level == LogLevel::kInfo && verbosity_ == Verbosity::kQuiet) return;
  write_line(level == LogLevel::kWarning ? "warning: " + std::string(line) : std::string(line));
}

void Console::error(std::string_view line) {
  const std::lock_guard lock(mutex_);
  std::string text = "stableqat: error: " + std::string(line);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  end_drawn_line();
  write_line(text);
}

void Console::progress(const Progress& progress) {
  const std::lock_guard lock(mutex_);
  if (verbosity_ == Verbosity::kQuiet) return;
  if (meter_.starts_stage(progress)) end_drawn_line();
  const std::optional<std::string> line = meter_.update(progress, ProgressMeter::Clock::now());
  if (!line) return;
  if (is_terminal_) {
    draw(*line);
  } else {
    write_line(*line);
  }
}

void Console::finish() {
  const std::lock_guard lock(mutex_);
  end_drawn_line();
}

LogCallback Console::log_callback() {
  return [this](LogLevel level, std::string_view line) { log(level, line); };
}

ProgressCallback Console::progress_callback() {
  return [this](const Progress& report) { progress(report); };
}

// A message goes above the progress line, which is then drawn again.
void Console::write_line(std::string_view line) {
  const std::string below = std::move(drawn_);
  if (!below.empty()) put("\r\x1b[K");
  put(line);
  put("\n");
  drawn_.clear();
  if (!below.empty()) draw(below);
}

void Console::draw(std::string_view line) {
  drawn_ = line.substr(0, terminal_width() - 1);
  put("\r\x1b[K");
  put(drawn_);
  std::fflush(stderr);
}

void Console::end_drawn_line() {
  if (!drawn_.empty()) put("\n");
  drawn_.clear();
}

}  // namespace stableqat::app
