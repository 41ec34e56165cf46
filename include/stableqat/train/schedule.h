// Learning rate over the steps of a run.
#pragma once

#include <cstdint>

#include "stableqat/config/train_config.h"

namespace stableqat {

struct Schedule {
  TrainConfig::Scheduler kind = TrainConfig::Scheduler::kCosine;
  double peak = 1e-4;
  std::int64_t warmup_steps = 0;
  std::int64_t total_steps = 1;

  // The rate of step 0, 1, ..., total_steps - 1 (transformers' get_cosine_schedule_with_warmup and its linear and constant siblings): rises
  // linearly from 0 over the warm-up, then falls to 0 at total_steps (cosine, linear) or stays (constant).
  double rate(std::int64_t step) const;
};

}  // namespace stableqat
