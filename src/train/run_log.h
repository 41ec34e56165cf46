// What a run reports about itself while it trains: lines of metrics.jsonl, TensorBoard's event files, lines for people. Rank 0 has one.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "stableqat/base/log.h"
#include "stableqat/config/train_config.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/train/event_file.h"
#include "stableqat/train/metrics.h"
#include "stableqat/train/train_step.h"

namespace stableqat {

// What one step's micro-batches gave, of all ranks.
struct StepLoss {
  double loss = 0.0;
  double cross_entropy = 0.0;
};

// What is known after an optimizer step.
struct StepSummary {
  std::int64_t step = 0;  // optimizer steps done
  std::int64_t total_steps = 0;
  std::uint64_t tokens = 0;  // seen so far
  StepLoss loss;
  StepReport report;
  double learning_rate = 0.0;
  std::uint64_t bytes_sent = 0;  // by this rank so far
};

// Not thread-safe. Throws EnvironmentError (disk).
class RunLog {
 public:
  // `first_step` > 0: the run goes on there. `model` is what histograms of codes are taken of.
  RunLog(const TrainConfig& config, const QuantizedModel& model, std::int64_t first_step, LogCallback log);

  // Collects; write_metrics() writes means and rates over the steps since it was called last.
  void add(const StepSummary& summary);
  void write_metrics();
  // The time between this and the last add() or resume_clock() is not part of the training rate.
  void resume_clock() { window_.start = Clock::now() - window_.training; }

  void write_perplexity(std::int64_t step, const PerplexityResult& result);
  void write_tasks(std::int64_t step, std::span<const tasks::TaskResult> results);

 private:
  using Clock = std::chrono::steady_clock;
  // Since the last line of metrics.
  struct Window {
    Clock::time_point start = Clock::now();
    Clock::duration training{};  // up to the last add()
    std::int64_t steps = 0;
    StepLoss loss;
    std::int64_t codes_changed = 0;
  };

  TrainMetrics metrics() const;
  void say(const std::string& line) const;

  const TrainConfig& config_;
  const QuantizedModel& model_;
  LogCallback log_;
  MetricsFile metrics_file_;
  std::optional<EventFile> events_;
  StepSummary last_;
  Window window_;
};

}  // namespace stableqat
