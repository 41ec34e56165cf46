// `stableqat bench step` and `bench efficiency`: several methods of training the same model, side by side.
//
// Every method lives in a process of its own (see isolated.h), and the processes take turns, one step each, so that whatever else the
// machine does hits all methods alike. No LibTorch operation may have run in the calling process.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/bench/spread.h"
#include "stableqat/bench/training_subject.h"

namespace stableqat::bench {

struct MethodJob {
  std::string name;  // for reports
  TrainingJob job;
};

struct Rounds {
  int warmup = 2;
  int repeats = 5;
};

struct BenchCallbacks {
  LogCallback log;
  ProgressCallback progress;
};

struct StepResult {
  std::string method;
  double tokens_per_second = 0.0;  // of the median step
  Spread step_seconds;
  double step_ratio = 1.0;       // to the first method's step: median over the rounds
  double forward_seconds = 0.0;  // medians
  double backward_seconds = 0.0;
  double update_seconds = 0.0;
  StepParts parts;                    // of one step after the timed ones
  std::uint64_t peak_bytes = 0;       // resident memory of the method's process, the check left out where the system allows
  std::uint64_t estimated_bytes = 0;  // what estimate_memory() said before
  bool in_turns = true;               // false: memory did not suffice for all methods at once, so they ran one after the other
  double loss = 0.0;                  // before the first step
  double gemm_flops_per_second = 0.0;
  double model_flops_per_step = 0.0;  // products with weights; attention is not counted
  double model_flops_share = 0.0;     // model_flops_per_step / median step / gemm_flops_per_second
  int threads = 0;
};

// Checks every method (TrainingSubject::check(); equal first losses of `ste` and `stableqat`), then times whole optimizer steps. All jobs
// have the same shapes. Throws NumericError when a check fails, EnvironmentError for want of memory, and what reading a model throws.
std::vector<StepResult> bench_step(const std::vector<MethodJob>& methods, const Rounds& rounds, const BenchCallbacks& callbacks = {});

struct EfficiencyResult {
  std::string method;
  Spread forward_seconds;
  Spread backward_seconds;
  std::int64_t forward_bytes = 0;  // most tensor memory alive in the phase
  std::int64_t backward_bytes = 0;
  std::uint64_t peak_bytes = 0;  // resident memory of the method's process
  bool in_turns = true;          // as above
};

// The paper's cost table: forward and backward passes without optimizer; see PassCost. Errors as bench_step.
std::vector<EfficiencyResult> bench_efficiency(const std::vector<MethodJob>& methods, const Rounds& rounds,
                                               const BenchCallbacks& callbacks = {});

// One flat object each, with the field names of docs/commands.md.
nlohmann::ordered_json to_json(const StepResult& result);
nlohmann::ordered_json to_json(const EfficiencyResult& result);

}  // namespace stableqat::bench
