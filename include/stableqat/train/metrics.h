// What a run reports: one JSON object a line in metrics.jsonl, and one line of text for people.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "stableqat/tasks/results.h"

namespace stableqat {

// State at a logging step; rates and shares are over the steps since the line before.
struct TrainMetrics {
  std::int64_t step = 0;  // optimizer steps done
  std::int64_t total_steps = 0;
  std::uint64_t tokens = 0;    // seen so far
  double loss = 0.0;           // what is minimized, mean over the steps since the last line, nats per predicted token
  double cross_entropy = 0.0;  // the data loss alone
  double gradient_norm = 0.0;  // before clipping, of the last step
  double learning_rate = 0.0;  // of the last step
  double tokens_per_second = 0.0;
  double seconds_left = 0.0;
  double codes_changed = 0.0;    // changes of codes since the last line / number of quantized weights
  double clipped = 0.0;          // share of weights outside the grid's range after the last step
  std::uint64_t bytes_sent = 0;  // by rank 0 to other ranks, so far; left out when there are none
};

// One line without a line end.
std::string describe(const TrainMetrics& metrics);

// Appends JSON lines; each is on disk when append() returns. Not thread-safe.
class MetricsFile {
 public:
  // Keeps the lines of an earlier run up to `last_step` (a resumed run writes the later ones again); -1 = starts empty. Throws
  // EnvironmentError.
  MetricsFile(std::filesystem::path path, std::int64_t last_step);

  void append(const TrainMetrics& metrics);
  // {"step", "eval_loss", "eval_perplexity", "eval_tokens"}
  void append_evaluation(std::int64_t step, double nll, double perplexity, std::uint64_t tokens);
  // {"step", "eval_tasks": {TASK: {METRIC: value, METRIC_stderr: value}}, "eval_tasks_mean"}
  void append_evaluation(std::int64_t step, std::span<const tasks::TaskResult> results);

 private:
  void append_line(const nlohmann::json& json);

  std::filesystem::path path_;
};

}  // namespace stableqat
