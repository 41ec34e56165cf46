// `stableqat bench scaling`: how time and memory of a training step grow with the sequence, the number of layers and the width.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "stableqat/bench/bench_step.h"

namespace stableqat::bench {

// A training step that differs from its neighbours on the same axis in one thing.
struct ScalingPoint {
  std::string axis;  // "tokens", "layers", "hidden"
  std::int64_t value = 0;
  TrainingJob job;
};

// From `job`, whose model takes random weights: sequences of 128 tokens, doubled up to `max_tokens`; a quarter, half, all and twice the
// layers; half, all and twice the width (heads, hidden size and feed-forward together, rounded to whole groups of heads).
std::vector<ScalingPoint> scaling_points(const TrainingJob& job, std::int64_t max_tokens);

struct ScalingResult {
  std::string axis;
  std::int64_t value = 0;
  std::string skipped;  // why the point was not run (memory); the rest is then empty but estimated_bytes
  Spread step_seconds;
  double tokens_per_second = 0.0;
  std::uint64_t peak_bytes = 0;  // resident memory of the process
  std::uint64_t estimated_bytes = 0;
  // p where time, or memory, grew as value^p since the point before on the axis.
  std::optional<double> time_exponent;
  std::optional<double> memory_exponent;
};

// Every point in a process of its own, one after the other, checked as in bench_step(). Points for which memory does not suffice are
// skipped.
std::vector<ScalingResult> bench_scaling(const std::vector<ScalingPoint>& points, const Rounds& rounds,
                                         const BenchCallbacks& callbacks = {});

nlohmann::ordered_json to_json(const ScalingResult& result);

}  // namespace stableqat::bench
