// Zero-shot (and few-shot) tasks: prepared once, evaluated for any number of models with the same tokenizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/eval/likelihood.h"
#include "stableqat/models/causal_lm.h"
#include "stableqat/tasks/encode.h"
#include "stableqat/tasks/likelihood_log.h"
#include "stableqat/tasks/results.h"
#include "stableqat/tasks/task.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat {

struct TaskSetOptions {
  tasks::RequestOptions requests;
  tasks::BosMode bos = tasks::BosMode::kAuto;
  std::int64_t max_length = 0;  // tokens that the model sees at most; the model's positions
};

// Tasks with their documents, requests and tokens.
class TaskSet {
 public:
  // Reads each task's data below `data_dir` and encodes it, with all of LibTorch's threads. Throws what tasks/ throws.
  TaskSet(std::span<const tasks::TaskDefinition> tasks, const std::filesystem::path& data_dir, const Tokenizer& tokenizer,
          const TaskSetOptions& options);

  // The tasks with their items, without answers.
  const std::vector<tasks::TaskResult>& tasks() const noexcept { return tasks_; }

  // Scores all documents that `log` does not have yet, and adds them to it; `log` may be nullptr. nullopt when `stop` asked to stop. Throws
  // NumericError for likelihoods that are not finite. Uses LibTorch's thread pool.
  std::optional<std::vector<tasks::TaskResult>> evaluate(const CausalLm& model, const LikelihoodOptions& options,
                                                         tasks::LikelihoodLog* log = nullptr, const ProgressCallback& progress = {},
                                                         const StopRequested& stop = {}) const;

 private:
  // A document, or a window of a document that is too long for one. The document is done with the last of its units.
  struct Unit {
    std::size_t task = 0;
    std::size_t item = 0;
    bool is_last = false;
  };

  void encode(std::size_t task, const tasks::RequestEncoder& encoder);
  std::vector<tasks::TaskResult> without_answers() const;
  static void take(tasks::TaskResult& result, const Unit& unit, const std::vector<tasks::Likelihood>& likelihoods);

  std::vector<tasks::TaskResult> tasks_;
  std::vector<Unit> units_;
  std::vector<RequestGroup> groups_;  // of each unit
};

// 16 hex digits of a model's weights as they are multiplied: a rounded model differs from its original, a file from no exact copy of it.
std::string weights_hash(CausalLm& model);

}  // namespace stableqat
