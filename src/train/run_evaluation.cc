#include "train/run_evaluation.h"

#include "stableqat/eval/perplexity.h"
#include "stableqat/tasks/catalog.h"
#include "stableqat/train/training_data.h"

namespace stableqat {

RunEvaluation::RunEvaluation(const TrainConfig& config, const ModelConfig& model, const Tokenizer& tokenizer) : config_(config) {
  if (!config.data.valid.empty()) {
    TextOptions text;
    text.json_key = config.data.json_key;
    text.skip_bad_lines = config.data.skip_bad_lines;
    const TokenEncoder encoder = model_encoder(tokenizer, model.vocab_size);
    validation_ = read_tokens(config.data.valid, text, encoder, static_cast<std::uint64_t>(config.train.eval_tokens));
  }
  if (!config.train.eval_tasks.empty()) {
    TaskSetOptions options;
    options.requests.limit = static_cast<std::uint64_t>(config.train.eval_limit);
    options.max_length = model.max_position_embeddings;
    tasks_.emplace(tasks::TaskCatalog::shipped().select(config.train.eval_tasks), config.train.eval_data_dir, tokenizer, options);
  }
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
