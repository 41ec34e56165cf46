// A whole training run from its configuration: data, model, steps, metrics, evaluation, checkpoints, resumption.
#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <memory>

#include "stableqat/base/log.h"
#include "stableqat/config/train_config.h"
#include "stableqat/dist/communicator.h"

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

// Writes below train.output_dir: metrics.jsonl, tokens/ (text tokenized on the way), before_training_checkpoint (a model without the
// state of a run), checkpoint-N, last_checkpoint. Continuing from a
// checkpoint gives the same files, bit for bit, as a run that was never interrupted (same machine and number of threads).
// Throws the library's errors. Before a NumericError (loss or gradient not finite) a checkpoint of the last good step is written. Not
// thread-safe; uses LibTorch's thread pool, whose size it sets from train.threads.
TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks);

// One rank of several: all of them call it with the same configuration. The micro-batches of a step (train.gradient_accumulation_steps, a
// multiple of the number of ranks) are dealt to the ranks in turn, and the result depends on their number only by the rounding of sums; for
// the same number it is the same bit for bit. Checkpoints are those of a single process. Only rank 0 calls `log`; a stop requested on any
// rank stops all after the present step. Throws also LostRankError, and ConfigError that names the key for ranks that differ.
TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks, Communicator& communicator);

// The same on a device that the caller has opened, in the place of train.device: open_device() does it for CUDA.
TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks, Communicator& communicator, at::Device device);

}  // namespace stableqat
