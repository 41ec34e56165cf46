// What a run evaluates itself on while it trains: validation text and tasks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/config/train_config.h"
#include "stableqat/data/token_loader.h"
#include "stableqat/eval/task_evaluation.h"
#include "stableqat/models/causal_lm.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stableqat/train/trainer.h"
#include "train/run_log.h"

namespace stableqat {

// Not thread-safe.
class RunEvaluation {
 public:
  // Reads data.valid, leaves out what the run trains on, and reads train.eval_tasks. Throws DataError, ConfigError.
  RunEvaluation(const TrainConfig& config, const ModelConfig& model, const Tokenizer& tokenizer, std::span<const WeightedStream> training,
                const TrainerCallbacks& callbacks);

  bool is_empty() const { return validation_.empty() && !tasks_; }

  // Results go to `log`; what is left when `stop` asks to stop is left out.
  void run(std::int64_t step, const CausalLm& model, RunLog& log, const ProgressCallback& progress, const StopRequested& stop);

 private:
  void leave_out_training_text(std::int32_t end_of_text, std::span<const WeightedStream> training, const TrainerCallbacks& callbacks);

  const TrainConfig& config_;
  std::vector<std::int32_t> validation_;
  std::optional<TaskSet> tasks_;
};

}  // namespace stableqat
