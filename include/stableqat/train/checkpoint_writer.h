// Writes checkpoints (checkpoint.h), while training goes on.
#pragma once

#include <atomic>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "stableqat/dist/communicator.h"
#include "stableqat/models/quantized_model.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stableqat/train/adamw.h"
#include "stableqat/train/checkpoint.h"

namespace stableqat {

// What a checkpoint holds besides the state; all of it must outlive the writer.
struct CheckpointParts {
  const QuantizedModel& model;
  const AdamW& optimizer;
  const Tokenizer& tokenizer;
  std::string train_config_yaml;
};

// A folder appears whole or not at all, when all ranks have written and synced their rows; an older one of that name is replaced. The
// folder has to be on a file system that all ranks see. One at a time: all members are called by all ranks in the same order, from one
// thread.
class CheckpointWriter {
 public:
  // In the background, or in start(), which then returns when the checkpoint is there. `after` is called on rank 0 after each checkpoint,
  // in the thread that wrote it; its errors are those of the checkpoint.
  CheckpointWriter(Communicator& communicator, CheckpointParts parts, bool in_background, std::function<void()> after);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  // Waits for what is being written.
  ~CheckpointWriter();

  // Waits for the checkpoint before; throws its error.
  void start(const std::filesystem::path& directory, const TrainerState& state);

  // The same without optimizer and state: a model to evaluate, export or start from, not one to resume.
  void start_model(const std::filesystem::path& directory);

  // To be called before the trained tensors and moments change: copies what is not written yet.
  void before_change();

  // Whether the present checkpoint has failed on this rank. When it has on any, all learn of it by wait().
  bool has_failed() const noexcept { return failed_; }

  // Returns when the checkpoint is there. Throws EnvironmentError on all ranks when one could not write, and LostRankError.
  void wait();

 private:
  class Job;

  void start(const std::filesystem::path& directory, const TrainerState* state);

  Communicator& communicator_;
  std::unique_ptr<Communicator> own_line_;  // of the thread, which must not take part in the exchanges of training
  CheckpointParts parts_;
  std::function<void()> after_;
  std::unique_ptr<Job> job_;
  std::atomic<bool> failed_ = false;
  std::exception_ptr error_;  // of the thread, once joined
  std::thread thread_;
};

}  // namespace stableqat
