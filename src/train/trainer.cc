#include "stableqat/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/memory.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/eval/task_evaluation.h"
#include "stableqat/models/model_source.h"
#include "stableqat/tasks/catalog.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stableqat/train/checkpoint.h"
#include "stableqat/train/event_file.h"
#include "stableqat/train/memory_estimate.h"
#include "stableqat/train/metrics.h"
#include "stableqat/train/schedule.h"
#include "stableqat/train/settings.h"
#include "stableqat/train/train_step.h"
#include "stableqat/train/training_data.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

LoaderOptions loader_options(const TrainConfig& config) {
  LoaderOptions options;
  options.batch_size = config.train.micro_batch_size;
  options.block_length = config.data.sequence_length;
  options.seed = static_cast<std::uint64_t>(config.data.shuffle_seed);
  return options;
}

Schedule schedule(const TrainConfig& config, std::int64_t steps) {
  std::int64_t warmup = config.train.warmup_steps;
  if (config.train.warmup_ratio > 0) warmup = static_cast<std::int64_t>(std::ceil(config.train.warmup_ratio * static_cast<double>(steps)));
  return {config.train.lr_scheduler, config.train.learning_rate, warmup, steps};
}

// Named as transformers' Trainer names them, where it has them.
std::vector<ScalarValue> scalars_of(const TrainMetrics& metrics) {
  const auto scalar = [](const char* tag, double value) { return ScalarValue{tag, static_cast<float>(value)}; };
  return {scalar("train/loss", metrics.loss),
          scalar("train/cross_entropy", metrics.cross_entropy),
          scalar("train/grad_norm", metrics.gradient_norm),
          scalar("train/learning_rate", metrics.learning_rate),
          scalar("train/tokens_per_second", metrics.tokens_per_second),
          scalar("train/codes_changed", metrics.codes_changed),
          scalar("train/clipped", metrics.clipped)};
}

fs::path event_folder(const TrainConfig::Train& config) {
  return config.logging_dir.empty() ? fs::path(config.output_dir) / "runs" : fs::path(config.logging_dir);
}

// How often each code occurs in a layer.
struct CodeCounts {
  std::string layer;
  std::int64_t first = 0;
  std::vector<std::uint64_t> counts;
};

CodeCounts count_codes(const QuantizedWeight& weight) {
  std::array<std::uint64_t, 256> counts{};
  const std::int8_t* codes = weight.codes().const_data_ptr<std::int8_t>();
  for (std::int64_t i = 0; i < weight.codes().numel(); ++i) ++counts[static_cast<std::size_t>(codes[i] + 128)];
  const auto is_used = [](std::uint64_t count) { return count > 0; };
  const auto first = std::find_if(counts.begin(), counts.end(), is_used);
  const auto end = std::find_if(counts.rbegin(), counts.rend(), is_used).base();
  return {weight.name(), first - counts.begin() - 128, {first, end}};
}

std::vector<HistogramValue> histograms_of(const std::vector<CodeCounts>& all) {
  std::vector<HistogramValue> histograms;
  for (const CodeCounts& layer : all) histograms.push_back({"codes/" + layer.layer, layer.first, layer.counts});
  return histograms;
}

// What one step's micro-batches gave.
struct StepLoss {
  double loss = 0.0;
  double cross_entropy = 0.0;
};

// Sums since the last line of metrics.
struct Window {
  Clock::time_point start = Clock::now();
  std::int64_t steps = 0;
  StepLoss loss;
  std::int64_t codes_changed = 0;
};

class Run {
 public:
  Run(const TrainConfig& config, const TrainerCallbacks& callbacks, const ModelSource& source, const Tokenizer& tokenizer,
      std::vector<WeightedStream> tokens, NumericTypes types)
      : config_(config),
        callbacks_(callbacks),
        output_dir_(config.train.output_dir),
        tokenizer_(tokenizer),
        loader_(std::move(tokens), loader_options(config)),
        total_steps_(total_steps(config, loader_.blocks_per_epoch())),
        schedule_(schedule(config, total_steps_)),
        model_(source, types.master, quantization_settings(config.quantization), starts_from_stored_scales(config.quantization, source)),
        step_(model_, train_step_options(config.train)),
        batch_(at::empty({config.train.micro_batch_size, config.data.sequence_length}, at::kLong)) {
    model_.model().set_compute_dtype(types.compute);
    model_.set_code_products(types.products);
    load_teacher(source, types);
    load_validation();
    load_tasks();
  }

  TrainOutcome run() {
    const std::int64_t first = resume();
    metrics_.emplace(output_dir_ / "metrics.jsonl", first > 0 ? first : -1);
    if (config_.train.report_to == TrainConfig::ReportTo::kTensorBoard) events_.emplace(event_folder(config_.train), first);
    steps_done_ = first;
    while (steps_done_ < total_steps_) {
      const LoaderPosition step_start = loader_.position();
      const std::optional<StepLoss> loss = accumulate(step_start);
      if (!loss) return interrupted(step_start);
      update(*loss, step_start);
      after_step();
    }
    if (last_evaluation_ != steps_done_) evaluate();
    save(output_dir_ / "last_checkpoint", loader_.position());
    return TrainOutcome::kFinished;
  }

 private:
  void log(const std::string& line) const {
    if (callbacks_.log) callbacks_.log(LogLevel::kInfo, line);
  }

  void load_teacher(const ModelSource& source, NumericTypes types) {
    if (config_.distillation.weight <= 0) return;
    const auto other = config_.distillation.teacher.empty() ? nullptr : ModelSource::open(config_.distillation.teacher);
    teacher_model_.emplace(other ? *other : source, types.master);
    if (teacher_model_->config().vocab_size != model_.model().config().vocab_size) {
      throw ConfigError({"distillation.teacher", "a vocabulary of " + std::to_string(teacher_model_->config().vocab_size),
                         "the student's " + std::to_string(model_.model().config().vocab_size),
                         "choose a teacher with the same tokenizer"});
    }
    teacher_model_->set_compute_dtype(types.compute);
    teacher_ = {&*teacher_model_, config_.distillation.weight, config_.distillation.temperature};
  }

  void load_tasks() {
    if (config_.train.eval_tasks.empty()) return;
    TaskSetOptions options;
    options.requests.limit = static_cast<std::uint64_t>(config_.train.eval_limit);
    options.max_length = model_.model().config().max_position_embeddings;
    tasks_.emplace(tasks::TaskCatalog::shipped().select(config_.train.eval_tasks), config_.train.eval_data_dir, tokenizer_, options);
  }

  void load_validation() {
    if (config_.data.valid.empty()) return;
    TextOptions text;
    text.json_key = config_.data.json_key;
    text.skip_bad_lines = config_.data.skip_bad_lines;
    const TokenEncoder encoder = model_encoder(tokenizer_, model_.model().config().vocab_size);
    validation_ = read_tokens(config_.data.valid, text, encoder, static_cast<std::uint64_t>(config_.train.eval_tokens));
  }

  // Returns the number of steps done before.
  std::int64_t resume() {
    const std::string& wish = config_.train.resume;
    if (wish == "never") {
      if (!list_checkpoints(output_dir_).empty()) {
        throw ConfigError({"train.output_dir", output_dir_.string() + " with checkpoints of another run", "a folder without checkpoints",
                           "remove them, choose another folder, or set train.resume: auto"});
      }
      return 0;
    }
    std::optional<fs::path> directory;
    if (wish == "auto") {
      directory = find_checkpoint(output_dir_, callbacks_.log);
    } else {
      directory = fs::exists(wish) ? fs::path(wish) : output_dir_ / wish;
      verify_checkpoint(*directory);
    }
    if (!directory) return 0;
    const TrainerState state = load_checkpoint(*directory, step_.optimizer());
    if (state.tokenizer_hash != tokenizer_.hash()) {
      throw DataError(
          {directory->string(), "a run with another tokenizer", "the same tokenizer", "use the model that the run started from"});
    }
    loader_.restore(state.position);
    model_.quantize();
    last_saved_ = state.step;
    log("continuing from " + directory->string() + " at step " + std::to_string(state.step));
    return state.step;
  }

  // Forward and backward of one step's micro-batches; nullopt when a stop was requested.
  std::optional<StepLoss> accumulate(const LoaderPosition& step_start) {
    const std::int64_t micro_batches = config_.train.gradient_accumulation_steps;
    const double scale = 1.0 / static_cast<double>(micro_batches);
    StepLoss sum;
    for (std::int64_t i = 0; i < micro_batches; ++i) {
      if (callbacks_.stop && callbacks_.stop()) return std::nullopt;
      loader_.next(std::span<std::int64_t>(batch_.data_ptr<std::int64_t>(), static_cast<std::size_t>(batch_.numel())));
      const HeadLoss loss = step_.accumulate(batch_, scale, teacher_.model != nullptr ? &teacher_ : nullptr);
      if (!std::isfinite(loss.loss)) {
        save(checkpoint_name(), step_start);
        throw NumericError({"loss at step " + std::to_string(steps_done_ + 1), std::to_string(loss.loss), "a finite number",
                            "lower train.learning_rate or check the data; the state before this step is in " + checkpoint_name().string()});
      }
      sum.loss += scale * loss.loss;
      sum.cross_entropy += scale * loss.cross_entropy;
    }
    return sum;
  }

  void update(const StepLoss& loss, const LoaderPosition& step_start) {
    learning_rate_ = schedule_.rate(steps_done_);
    try {
      report_ = step_.update(learning_rate_);
    } catch (const NumericError&) {
      save(checkpoint_name(), step_start);
      throw;
    }
    ++steps_done_;
    ++window_.steps;
    window_.loss.loss += loss.loss;
    window_.loss.cross_entropy += loss.cross_entropy;
    window_.codes_changed += report_.counts.changed;
  }

  void after_step() {
    const auto due = [this](std::int64_t interval) { return interval > 0 && steps_done_ % interval == 0; };
    if (callbacks_.progress) {
      callbacks_.progress({"training", static_cast<std::uint64_t>(steps_done_), static_cast<std::uint64_t>(total_steps_), "steps"});
    }
    if (due(config_.train.logging_steps) || steps_done_ == total_steps_) write_metrics();
    if (due(config_.train.eval_steps)) evaluate();
    if (due(config_.train.save_steps) && steps_done_ < total_steps_) save(checkpoint_name(), loader_.position());
  }

  void write_metrics() {
    const double steps = static_cast<double>(window_.steps);
    const double seconds = seconds_since(window_.start);
    const auto elements = static_cast<double>(std::max<std::int64_t>(1, model_.quantized_elements()));
    TrainMetrics metrics;
    metrics.step = steps_done_;
    metrics.total_steps = total_steps_;
    metrics.tokens = loader_.tokens_done();
    metrics.loss = window_.loss.loss / steps;
    metrics.cross_entropy = window_.loss.cross_entropy / steps;
    metrics.gradient_norm = report_.norms.total;
    metrics.learning_rate = learning_rate_;
    metrics.tokens_per_second = steps * static_cast<double>(batch_.numel() * config_.train.gradient_accumulation_steps) / seconds;
    metrics.seconds_left = seconds / steps * static_cast<double>(total_steps_ - steps_done_);
    metrics.codes_changed = static_cast<double>(window_.codes_changed) / elements;
    metrics.clipped = static_cast<double>(report_.counts.clipped) / elements;
    metrics_->append(metrics);
    if (events_) {
      const std::vector<CodeCounts> counts = code_counts();
      events_->append(steps_done_, scalars_of(metrics), histograms_of(counts));
    }
    log(describe(metrics));
    window_ = Window();
  }

  void evaluate() {
    last_evaluation_ = steps_done_;
    if (validation_.empty() && !tasks_) return;
    if (!validation_.empty()) evaluate_validation();
    if (tasks_) evaluate_tasks();
    window_.start = Clock::now();
  }

  void evaluate_tasks() {
    const auto results = tasks_->evaluate(model_.model(), {}, nullptr, callbacks_.progress, callbacks_.stop);
    if (!results) return;
    metrics_->append_evaluation(steps_done_, *results);
    const tasks::MeanScore mean = tasks::mean_score(*results);
    if (mean.tasks == 0) return;
    if (events_) events_->append(steps_done_, std::array{ScalarValue{"eval/tasks_mean", static_cast<float>(mean.value)}});
    log("step " + std::to_string(steps_done_) + ": mean of " + std::to_string(mean.tasks) + " tasks " + std::to_string(mean.value) +
        " +- " + std::to_string(mean.standard_error));
  }

  void evaluate_validation() {
    PerplexityOptions options;
    options.context = config_.data.sequence_length;
    const PerplexityResult result = perplexity(model_.model(), validation_, options, callbacks_.progress, callbacks_.stop);
    if (result.blocks == 0) return;  // stopped before the first block
    metrics_->append_evaluation(steps_done_, result.nll, result.perplexity, result.tokens);
    if (events_) {
      const std::array scalars{ScalarValue{"eval/loss", static_cast<float>(result.nll)},
                               ScalarValue{"eval/perplexity", static_cast<float>(result.perplexity)}};
      events_->append(steps_done_, scalars);
    }
    log("step " + std::to_string(steps_done_) + ": perplexity " + std::to_string(result.perplexity) + " on " +
        std::to_string(result.tokens) + " tokens of " + config_.data.valid);
  }

  // Of every quantized layer, where they were asked for.
  std::vector<CodeCounts> code_counts() const {
    std::vector<CodeCounts> all;
    if (!config_.train.code_histograms) return all;
    for (const QuantizedWeight& weight : model_.weights()) all.push_back(count_codes(weight));
    return all;
  }

  fs::path checkpoint_name() const { return output_dir_ / ("checkpoint-" + std::to_string(steps_done_)); }

  void save(const fs::path& directory, const LoaderPosition& position) {
    const Clock::time_point start = Clock::now();
    save_checkpoint(directory, {model_, step_.optimizer(), tokenizer_, to_yaml(config_)}, {steps_done_, position, tokenizer_.hash()});
    last_saved_ = steps_done_;
    remove_old_checkpoints(output_dir_, config_.train.save_total_limit);
    window_.start += Clock::now() - start;  // not part of the training rate
  }

  TrainOutcome interrupted(const LoaderPosition& step_start) {
    if (last_saved_ != steps_done_) save(checkpoint_name(), step_start);
    log("stopped at step " + std::to_string(steps_done_) + "; the same command continues from there");
    return TrainOutcome::kInterrupted;
  }

  const TrainConfig& config_;
  const TrainerCallbacks& callbacks_;
  fs::path output_dir_;
  const Tokenizer& tokenizer_;
  TokenLoader loader_;
  std::int64_t total_steps_;
  Schedule schedule_;
  QuantizedModel model_;
  TrainStep step_;
  at::Tensor batch_;  // [B, T] int64
  std::optional<CausalLm> teacher_model_;
  Teacher teacher_;
  std::vector<std::int32_t> validation_;
  std::optional<TaskSet> tasks_;
  std::optional<MetricsFile> metrics_;
  std::optional<EventFile> events_;

  std::int64_t steps_done_ = 0;
  std::int64_t last_saved_ = -1;
  std::int64_t last_evaluation_ = -1;
  double learning_rate_ = 0.0;
  StepReport report_;
  Window window_;
};

void make_output_dir(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) {
    throw EnvironmentError(
        {directory.string(), error.message(), "a folder that can be made and written", "choose another train.output_dir"});
  }
}

void report(const MemoryEstimate& estimate, const LogCallback& log) {
  if (!log) return;
  log(LogLevel::kInfo, "memory, estimated: " + describe(estimate));
  const std::uint64_t available = available_memory() + resident_memory();
  if (available < estimate.total()) {
    log(LogLevel::kWarning,
        "only " + gigabytes(available) + " are available; train.recompute block and a smaller train.micro_batch_size take less");
  }
}

}  // namespace

TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks) {
  if (config.train.threads > 0) at::set_num_threads(static_cast<int>(config.train.threads));
  std::vector<std::string> notices;
  const NumericTypes types = numeric_types(config.train.precision, config.train.compute, notices);
  for (const std::string& notice : notices) {
    if (callbacks.log) callbacks.log(LogLevel::kInfo, notice);
  }
  quantization_settings(config.quantization);  // refuses bad settings before anything is read
  auto source = ModelSource::open(config.model.path);
  const Tokenizer tokenizer = Tokenizer::open(config.model.path);
  make_output_dir(config.train.output_dir);
  const fs::path cache = fs::path(config.train.output_dir) / "tokens" / "train";
  const TokenEncoder encoder = model_encoder(tokenizer, source->config().vocab_size);
  auto tokens = open_training_tokens(config.data, encoder, cache, callbacks.log, callbacks.progress, callbacks.stop);
  if (tokens.empty()) return TrainOutcome::kInterrupted;
  const MemoryEstimate estimate = estimate_memory(source->config(), config, resident_memory());
  report(estimate, callbacks.log);
  Run run(config, callbacks, *source, tokenizer, std::move(tokens), types);
  source.reset();  // a mapped model file counts as memory of this process
  const TrainOutcome outcome = run.run();
  if (callbacks.log) callbacks.log(LogLevel::kInfo, describe_peak(peak_memory(), estimate));
  return outcome;
}

}  // namespace stableqat
