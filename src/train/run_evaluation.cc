#include "train/run_evaluation.h"

#include <memory>
#include <string>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/data/overlap.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/tasks/catalog.h"
#include "stableqat/train/training_data.h"

namespace stableqat {

namespace {

std::string describe(const Overlap& overlap, const std::string& name) {
  std::string text = name + ": " + std::to_string(overlap.shared_parts) + " of " + std::to_string(overlap.parts) + " parts (" +
                     std::to_string(overlap.shared_tokens) + " tokens) are in the training data, too";
  if (overlap.searched < overlap.total) {
    text += ", of which " + std::to_string(overlap.searched) + " of " + std::to_string(overlap.total) + " tokens were searched";
  }
  return text;
}

}  // namespace

RunEvaluation::RunEvaluation(const TrainConfig& config, const ModelConfig& model, const Tokenizer& tokenizer,
                             std::span<const WeightedStream> training, const TrainerCallbacks& callbacks)
    : config_(config) {
  if (!config.data.valid.empty()) {
    TextOptions text;
    text.json_key = config.data.json_key;
    text.skip_bad_lines = config.data.skip_bad_lines;
    const TokenEncoder encoder = model_encoder(tokenizer, model.vocab_size);
    validation_ = read_tokens(config.data.valid, text, encoder, static_cast<std::uint64_t>(config.train.eval_tokens));
    leave_out_training_text(encoder.end_of_text, training, callbacks);
  }
  if (!config.train.eval_tasks.empty()) {
    TaskSetOptions options;
    options.requests.limit = static_cast<std::uint64_t>(config.train.eval_limit);
    options.max_length = model.max_position_embeddings;
    tasks_.emplace(tasks::TaskCatalog::shipped().select(config.train.eval_tasks), config.train.eval_data_dir, tokenizer, options);
  }
}

void RunEvaluation::leave_out_training_text(std::int32_t end_of_text, std::span<const WeightedStream> training,
                                            const TrainerCallbacks& callbacks) {
  if (config_.data.overlap_tokens == 0) return;
  std::vector<std::shared_ptr<const TokenStream>> streams;
  for (const WeightedStream& part : training) streams.push_back(part.stream);
  Overlap overlap = remove_overlap(validation_, end_of_text, streams, static_cast<std::uint64_t>(config_.data.overlap_tokens),
                                   callbacks.progress, callbacks.stop);
  if (overlap.shared_parts == 0) return;
  if (overlap.rest.empty()) {
    throw DataError({"data.valid", describe(overlap, config_.data.valid), "text that the run does not train on",
                     "name other text, or evaluate on this all the same by data.overlap_tokens: 0"});
  }
  if (callbacks.log) callbacks.log(LogLevel::kWarning, describe(overlap, config_.data.valid) + "; they are left out of the evaluation");
  validation_ = std::move(overlap.rest);
}

void RunEvaluation::run(std::int64_t step, const CausalLm& model, RunLog& log, const ProgressCallback& progress,
                        const StopRequested& stop) {
  if (!validation_.empty()) {
    PerplexityOptions options;
    options.context = config_.data.sequence_length;
    const PerplexityResult result = perplexity(model, validation_, options, progress, stop);
    if (result.blocks > 0) log.write_perplexity(step, result);  // else stopped before the first block
  }
  if (tasks_) {
    const auto results = tasks_->evaluate(model, {}, nullptr, progress, stop);
    if (results) log.write_tasks(step, *results);
  }
}

}  // namespace stableqat
