#include "stableqat/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace stableqat {

double Schedule::rate(std::int64_t step) const {
  if (step < warmup_steps) return peak * static_cast<double>(step) / static_cast<double>(warmup_steps);
  const double span = static_cast<double>(std::max<std::int64_t>(1, total_steps - warmup_steps));
  const double done = static_cast<double>(step - warmup_steps) / span;
  switch (kind) {
    case TrainConfig::Scheduler::kCosine:
      return peak * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * done)));
    case TrainConfig::Scheduler::kLinear:
      return peak * std::max(0.0, 1.0 - done);
    case TrainConfig::Scheduler::kConstant:
      break;
  }
  return peak;
}

}  // namespace stableqat
