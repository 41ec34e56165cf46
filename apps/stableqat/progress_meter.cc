#include "progress_meter.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace stableqat::app {

namespace {

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t hours = whole / 3600;
  const std::int64_t minutes = whole / 60 % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60) : fmt::format("{}:{:02}", minutes, whole % 60);
}

// Scale and unit in which numbers around `size` are shown.
struct Unit {
  double factor;
  std::string name;
};

Unit unit_for(double size, std::string_view plural) {
  if (plural != "bytes") return {1.0, std::string(plural)};
  constexpr std::array<std::string_view, 5> kNames{"bytes", "kB", "MB", "GB", "TB"};
  std::size_t i = 0;
  double factor = 1.0;
  for (; i + 1 < kNames.size() && size >= 1000.0 * factor; ++i) factor *= 1000.0;
  return {factor, std::string(kNames[i])};
}

std::string amount_text(double amount, const Unit& unit) {
  const double shown = amount / unit.factor;
  return shown == std::floor(shown) && unit.factor == 1.0 ? fmt::format("{:.0f}", shown) : fmt::format("{:.1f}", shown);
}

std::string rate_text(double per_second, std::string_view plural) {
  const Unit unit = unit_for(per_second, plural);
  const double shown = per_second / unit.factor;
  return fmt::format("{:.{}f} {}/s", shown, shown < 10.0 ? 2 : shown < 100.0 ? 1 : 0, unit.name);
}

}  // namespace

std::optional<std::string> ProgressMeter::update(const Progress& progress, Clock::time_point now) {
  const bool is_new = starts_stage(progress);
  if (is_new) {
    stage_ = std::string(progress.stage);
    stage_start_ = last_line_ = now;
    done_at_start_ = progress.done;
    is_complete_ = false;
  }
  const bool completes = !is_complete_ && progress.total > 0 && progress.done >= progress.total;
  if (!completes && (is_new || is_complete_ || now - last_line_ < interval_)) return std::nullopt;
  is_complete_ = completes;
  last_line_ = now;
  std::string text = line(progress, now);
  if (!progress.detail.empty()) text += "; " + std::string(progress.detail);
  return text;
}

std::string ProgressMeter::line(const Progress& progress, Clock::time_point now) const {
  const double seconds = std::chrono::duration<double>(now - stage_start_).count();
  const auto done = static_cast<double>(progress.done);
  const auto total = static_cast<double>(progress.total);
  const Unit unit = unit_for(std::max(done, total), progress.unit);

  std::string text = fmt::format("{}: {}", progress.stage, amount_text(done, unit));
  if (progress.total > 0) text += fmt::format(" of {}", amount_text(total, unit));
  text += " " + unit.name;
  if (progress.total > 0) text += fmt::format(" ({:.0f} %)", std::floor(100.0 * done / total));

  const double advanced = done - static_cast<double>(done_at_start_);
  if (seconds <= 0.0 || advanced <= 0.0) return text;
  const double rate = advanced / seconds;
  text += ", " + rate_text(rate, progress.unit);
  if (progress.total == 0 || progress.done >= progress.total) return text + ", " + duration_text(seconds);
  return text + ", " + duration_text((total - done) / rate) + " left";
}

}  // namespace stableqat::app
