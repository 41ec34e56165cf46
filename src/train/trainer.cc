#include "stableqat/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/base/memory.h"
#include "stableqat/models/model_source.h"
#include "stableqat/tokenizer/tokenizer.h"
#include "stableqat/train/checkpoint.h"
#include "stableqat/train/checkpoint_writer.h"
#include "stableqat/train/memory_estimate.h"
#include "stableqat/train/schedule.h"
#include "stableqat/train/settings.h"
#include "stableqat/train/train_step.h"
#include "stableqat/train/training_data.h"
#include "train/run_evaluation.h"
#include "train/run_identity.h"
#include "train/run_log.h"

namespace stableqat {

namespace fs = std::filesystem;

namespace {

// Micro-batches of a step are dealt to the ranks in turn, so that the order of the data does not depend on their number.
LoaderOptions loader_options(const TrainConfig& config, const Communicator& communicator) {
  LoaderOptions options;
  options.rank = communicator.rank();
  options.ranks = communicator.ranks();
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

QuantizedModel start_model(const TrainConfig& config, const ModelSource& source, NumericTypes types, at::Device device) {
  QuantizedModel model(source, types.master, quantization_settings(config.quantization),
                       starts_from_stored_scales(config.quantization, source));
  place(model, types, device);
  return model;
}

class Run {
 public:
  Run(const TrainConfig& config, const TrainerCallbacks& callbacks, Communicator& communicator, const ModelSource& source,
      const Tokenizer& tokenizer, const std::vector<WeightedStream>& tokens, NumericTypes types, at::Device device)
      : config_(config),
        callbacks_(callbacks),
        communicator_(communicator),
        output_dir_(config.train.output_dir),
        tokenizer_(tokenizer),
        loader_(tokens, loader_options(config, communicator)),
        total_steps_(total_steps(config, loader_.blocks_per_epoch())),
        schedule_(schedule(config, total_steps_)),
        model_(start_model(config, source, types, device)),
        step_(model_, train_step_options(config), communicator),
        batch_(at::empty({config.train.micro_batch_size, config.data.sequence_length}, at::kLong)),
        checkpoints_(communicator, {model_, step_.optimizer(), tokenizer_, to_yaml(config_)}, config.train.save_in_background,
                     [this] { remove_old_checkpoints(output_dir_, config_.train.save_total_limit, config_.train.save_keep_every); }) {
    require_same_model(communicator_, model_);
    load_teacher(source, types);
    communicator_.main_only([&] { evaluation_.emplace(config, model_.model().config(), tokenizer, tokens, callbacks); });
  }

  TrainOutcome run() {
    steps_done_ = resume();
    if (steps_done_ == 0 && config_.train.save_before_training) {
      checkpoints_.start_model(output_dir_ / "before_training_checkpoint");
      checkpoints_.wait();  // a folder that cannot be written is found out before the first step
    }
    if (communicator_.is_main()) run_log_.emplace(config_, model_, steps_done_, callbacks_.log);
    while (steps_done_ < total_steps_) {
      communicator_.set_activity("step " + std::to_string(steps_done_ + 1));
      const LoaderPosition step_start = loader_.position();
      const std::optional<at::Tensor> losses = accumulate(step_start);
      if (!losses) return interrupted(step_start);
      update(*losses, step_start);
      after_step();
      if (stop_ && steps_done_ < total_steps_) return interrupted(loader_.position());
    }
    if (last_evaluation_ != steps_done_) evaluate();
    save(output_dir_ / "last_checkpoint", loader_.position());
    checkpoints_.wait();
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
    if (!model_.model().device().is_cpu()) teacher_model_->move_to(model_.model().device());
    teacher_ = {&*teacher_model_, config_.distillation.weight, config_.distillation.temperature};
  }

  // The folder to go on from, checked; "" = none.
  std::string choose_checkpoint() const {
    const std::string& wish = config_.train.resume;
    AtomicDirectory::remove_leftovers(output_dir_);
    if (wish == "never") {
      if (!list_checkpoints(output_dir_).empty()) {
        throw ConfigError({"train.output_dir", output_dir_.string() + " with checkpoints of another run", "a folder without checkpoints",
                           "remove them, choose another folder, or set train.resume: auto"});
      }
      return "";
    }
    if (wish == "auto") return find_checkpoint(output_dir_, callbacks_.log).value_or("").string();
    const fs::path directory = fs::exists(wish) ? fs::path(wish) : output_dir_ / wish;
    verify_checkpoint(directory);
    return directory.string();
  }

  // Returns the number of steps done before.
  std::int64_t resume() {
    const std::string directory = text_from_main(communicator_, [this] { return choose_checkpoint(); });
    if (directory.empty()) return 0;
    TrainerState state;
    together(communicator_, [&] { state = load_checkpoint(directory, step_.optimizer()); });
    if (state.tokenizer_hash != tokenizer_.hash()) {
      throw DataError({directory, "a run with another tokenizer", "the same tokenizer", "use the model that the run started from"});
    }
    loader_.restore(state.position);
    step_.quantize();
    last_saved_ = state.step;
    log("continuing from " + directory + " at step " + std::to_string(state.step));
    return state.step;
  }

  // Forward and backward of one step's micro-batches, of all ranks: loss and cross entropy, [2] float64, on the GPU if steps are started
  // ahead; nullopt when a stop was requested before they were done.
  std::optional<at::Tensor> accumulate(const LoaderPosition& step_start) {
    const double scale = 1.0 / static_cast<double>(config_.train.gradient_accumulation_steps);
    const std::int64_t micro_batches = config_.train.gradient_accumulation_steps / communicator_.ranks();
    const Teacher* const teacher = teacher_.model != nullptr ? &teacher_ : nullptr;
    std::vector<at::Tensor> losses;  // looked at when all work is under way
    for (std::int64_t i = 0; i < micro_batches; ++i) {
      if (communicator_.ranks() == 1 && stop_requested()) return std::nullopt;
      read_batch();
      const HeadLoss loss =
          i + 1 < micro_batches ? step_.accumulate(batch_, scale, teacher) : step_.accumulate_last(batch_, scale, teacher);
      losses.push_back(loss.losses);
    }
    const at::Tensor sum = at::stack(losses).mul_(scale).sum(0);
    return step_.runs_ahead() ? sum : of_all_ranks(sum.cpu(), step_start);
  }

  void read_batch() {
    RECORD_USER_SCOPE("data");
    loader_.next(std::span<std::int64_t>(batch_.data_ptr<std::int64_t>(), static_cast<std::size_t>(batch_.numel())));
  }

  bool stop_requested() const { return callbacks_.stop && callbacks_.stop(); }

  // Sums over ranks; whether any of them was asked to stop, or could not write its checkpoint, is then known to all.
  at::Tensor of_all_ranks(const at::Tensor& own, const LoaderPosition& step_start) {
    const auto* const losses = own.const_data_ptr<double>();
    const auto all =
        communicator_.all_gather_numbers({losses[0], losses[1], stop_requested() ? 1.0 : 0.0, checkpoints_.has_failed() ? 1.0 : 0.0});
    at::Tensor sum = at::zeros({2}, at::kDouble);
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      if (all[rank][3] > 0) checkpoints_.wait();
      if (!std::isfinite(all[rank][0])) throw_diverged(rank, all[rank][0], step_start);
      sum += at::tensor({all[rank][0], all[rank][1]}, at::kDouble);
      stop_ = stop_ || all[rank][2] > 0;
    }
    return sum;
  }

  [[noreturn]] void throw_diverged(std::size_t rank, double loss, const LoaderPosition& step_start) {
    save_good_state(step_start);
    const std::string where = communicator_.ranks() > 1 ? " on rank " + std::to_string(rank) : "";
    throw NumericError({"loss at step " + std::to_string(steps_done_ + 1) + where, std::to_string(loss), "a finite number",
                        "lower train.learning_rate or check the data; the state before this step is in " + checkpoint_name().string()});
  }

  void update(const at::Tensor& losses, const LoaderPosition& step_start) {
    StartedStep started{step_start, {}, {}};
    started.summary.learning_rate = schedule_.rate(steps_done_);
    checkpoints_.before_change();
    try {
      const at::Tensor numbers = step_.start_update(started.summary.learning_rate);
      started.numbers = at::cat({losses.to(numbers.device()), numbers});
    } catch (const NumericError&) {
      save_good_state(step_start);
      throw;
    }
    started.summary.step = ++steps_done_;
    started.summary.total_steps = total_steps_;
    started.summary.tokens = loader_.tokens_done();
    started.summary.bytes_sent = communicator_.traffic().total();
    started_.push_back(std::move(started));
    if (!step_.runs_ahead()) return settle();
    stop_ = stop_ || stop_requested();
    if (checkpoints_.has_failed()) checkpoints_.wait();
  }

  // Waits for the numbers of the steps that were started, and takes back those that a GPU has left out.
  void settle() {
    if (started_.empty()) return;
    std::vector<at::Tensor> rows;
    for (const StartedStep& step : started_) rows.push_back(step.numbers);
    const at::Tensor all = at::stack(rows).cpu();
    const auto width = static_cast<std::size_t>(all.size(1));
    const std::vector<StartedStep> steps = std::exchange(started_, {});
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const auto numbers = std::span(all.const_data_ptr<double>(), static_cast<std::size_t>(all.numel())).subspan(i * width, width);
      StepSummary summary = steps[i].summary;
      summary.loss = {.loss = numbers[0], .cross_entropy = numbers[1]};
      summary.report = step_report(numbers.subspan(2));
      if (!std::isfinite(summary.report.norms.total)) {
        step_.take_back(static_cast<std::int64_t>(steps.size() - i));
        steps_done_ = summary.step - 1;
        if (!std::isfinite(summary.loss.loss)) throw_diverged(0, summary.loss.loss, steps[i].start);
        save_good_state(steps[i].start);
        require_finite(summary.report.norms);
      }
      if (run_log_) run_log_->add(summary);
    }
  }

  void save_good_state(const LoaderPosition& step_start) {
    save(checkpoint_name(), step_start);
    checkpoints_.wait();
  }

  void after_step() {
    const auto due = [this](std::int64_t interval) { return interval > 0 && steps_done_ % interval == 0; };
    const bool is_last = steps_done_ == total_steps_;
    if (due(config_.train.logging_steps) || due(config_.train.eval_steps) || due(config_.train.save_steps) || is_last) settle();
    if (callbacks_.progress) {
      callbacks_.progress({"training", static_cast<std::uint64_t>(steps_done_), static_cast<std::uint64_t>(total_steps_), "steps"});
    }
    if (run_log_ && (due(config_.train.logging_steps) || is_last)) run_log_->write_metrics();
    if (due(config_.train.eval_steps)) evaluate();
    if (due(config_.train.save_steps) && !is_last) save(checkpoint_name(), loader_.position());
  }

  void evaluate() {
    RECORD_USER_SCOPE("evaluation");
    last_evaluation_ = steps_done_;
    communicator_.main_only([this] {
      evaluation_->run(steps_done_, model_.model(), *run_log_, callbacks_.progress, callbacks_.stop);
      run_log_->resume_clock();
    });
  }

  fs::path checkpoint_name() const { return output_dir_ / ("checkpoint-" + std::to_string(steps_done_)); }

  void save(const fs::path& directory, const LoaderPosition& position) {
    checkpoints_.start(directory, {steps_done_, position, tokenizer_.hash()});
    last_saved_ = steps_done_;
    if (run_log_) run_log_->resume_clock();
  }

  TrainOutcome interrupted(const LoaderPosition& position) {
    settle();
    if (last_saved_ != steps_done_) save(checkpoint_name(), position);
    checkpoints_.wait();
    log("stopped at step " + std::to_string(steps_done_) + "; the same command continues from there");
    return TrainOutcome::kInterrupted;
  }

  // An optimizer step whose numbers a GPU may still be working on.
  struct StartedStep {
    LoaderPosition start;  // of its data
    StepSummary summary;   // without loss and report
    at::Tensor numbers;    // [2 + kStepNumbers] float64: loss, cross entropy, then as TrainStep::start_update() gives them
  };

  const TrainConfig& config_;
  const TrainerCallbacks& callbacks_;
  Communicator& communicator_;
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
  std::optional<RunEvaluation> evaluation_;  // rank 0 only, as the next
  std::optional<RunLog> run_log_;
  CheckpointWriter checkpoints_;  // below all that it writes, so that it ends first

  std::int64_t steps_done_ = 0;  // or started
  std::vector<StartedStep> started_;
  std::int64_t last_saved_ = -1;
  std::int64_t last_evaluation_ = -1;
  bool stop_ = false;
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

void check_ranks(const TrainConfig& config, const Communicator& communicator) {
  if (communicator.ranks() > 1 && config.train.device == TrainConfig::Device::kCuda) {
    throw ConfigError({"train.device", "cuda with several ranks", "one rank on a GPU, or several on CPUs", "start one process"});
  }
  if (config.train.gradient_accumulation_steps % communicator.ranks() == 0) return;
  throw ConfigError(
      {"train.gradient_accumulation_steps",
       std::to_string(config.train.gradient_accumulation_steps) + ", dealt to " + std::to_string(communicator.ranks()) + " ranks",
       "a multiple of the number of ranks", "change either; it counts the micro-batches of all ranks together"});
}

// Rank 0 tokenizes, the others read what it has written. Empty when a stop was requested.
std::vector<WeightedStream> open_tokens(const TrainConfig& config, const TrainerCallbacks& callbacks, Communicator& communicator,
                                        const TokenEncoder& encoder) {
  const fs::path cache = fs::path(config.train.output_dir) / "tokens" / "train";
  std::vector<WeightedStream> tokens;
  const std::string state = text_from_main(communicator, [&] {
    tokens = open_training_tokens(config.data, encoder, cache, callbacks.log, callbacks.progress, callbacks.stop);
    return tokens.empty() ? "stopped" : "there";
  });
  if (state == "there" && !communicator.is_main()) tokens = open_training_tokens(config.data, encoder, cache);
  return tokens;
}

using OpenDevice = std::function<at::Device()>;

TrainOutcome train_rank(const TrainConfig& config, const TrainerCallbacks& callbacks, Communicator& communicator,
                        const OpenDevice& device_to_open) {
  require_same_config(communicator, config);
  check_ranks(config, communicator);
  check_settings(config);  // before a device is opened or anything is read
  const at::Device device = device_to_open();
  if (config.train.threads > 0) at::set_num_threads(static_cast<int>(config.train.threads));
  std::vector<std::string> notices;
  const NumericTypes types = numeric_types(config, notices);
  require_same(communicator, "train.precision", at::toString(types.compute));  // `auto` depends on the machine
  require_same(communicator, "train.compute", std::to_string(digits_of(types.products)) + " int8 digits");
  for (const std::string& notice : notices) {
    if (callbacks.log) callbacks.log(LogLevel::kInfo, notice);
  }
  auto source = ModelSource::open(config.model.path);
  const Tokenizer tokenizer = Tokenizer::open(config.model.path);
  make_output_dir(config.train.output_dir);
  auto tokens = open_tokens(config, callbacks, communicator, model_encoder(tokenizer, source->config().vocab_size));
  if (tokens.empty()) return TrainOutcome::kInterrupted;
  require_same_data(communicator, tokens);
  const MemoryEstimate estimate = estimate_memory(source->config(), config, resident_memory(), communicator.ranks());
  if (device.is_cpu()) report(estimate, callbacks.log);
  Run run(config, callbacks, communicator, *source, tokenizer, tokens, types, device);
  source.reset();  // a mapped model file counts as memory of this process
  const TrainOutcome outcome = run.run();
  if (callbacks.log && device.is_cpu()) callbacks.log(LogLevel::kInfo, describe_peak(peak_memory(), estimate));
  communicator.barrier();  // rank 0 stays until the others need it no longer
  return outcome;
}

}  // namespace

TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks) { return train(config, callbacks, *single_process()); }

TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks, Communicator& communicator) {
  TrainerCallbacks own = callbacks;
  if (!communicator.is_main()) own.log = nullptr;
  return train_rank(config, own, communicator, [&config] { return open_device(config.train); });
}

TrainOutcome train(const TrainConfig& config, const TrainerCallbacks& callbacks, Communicator& communicator, at::Device device) {
  TrainerCallbacks own = callbacks;
  if (!communicator.is_main()) own.log = nullptr;
  return train_rank(config, own, communicator, [device] { return device; });
}

}  // namespace stableqat
