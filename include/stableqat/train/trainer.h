// A whole training run from its configuration: data, model, steps, metrics, evaluation, checkpoints, resumption.
#pragma once

#include <filesystem>
#include <memory>

#include "stableqat/base/log.h"
#include "stableqat/config/train_config.h"

namespace stableqat {

struct TrainerCallbacks {
  LogCallback log;
  ProgressCallback progress;
  StopRequested stop;
};

enum class TrainOutcome {
  kFinished,
  kInterrupted  // a stop was requested; a checkpoint of the last complete step is there
};

// Writes below train.output_dir: metrics.jsonl, tokens/ (text tokenized on the way), checkpoint-N, last_checkpoint. Continuing from a
// checkpoint gives the same files, bit for bit, as a run that was never interrupted (same machine and number of threads).
// Throws the library's errors. Before a NumericError (loss or gradient not finite) a checkpoint of the last good step is written. Not
// thread-safe; uses LibTorch's thread pool, whose size it sets from train.threads.
TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks);

}  // namespace stableqat
