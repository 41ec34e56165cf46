#include "stableqat/bench/training_subject.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cmath>
#include <random>

#include "bench/step_check.h"
#include "bench/stopwatch.h"
#include "stableqat/base/error.h"
#include "stableqat/bench/shapes.h"
#include "stableqat/models/head.h"
#include "stableqat/models/model_source.h"
#include "stableqat/train/settings.h"

namespace stableqat::bench {

namespace {

std::unique_ptr<ModelSource> open(const TrainingJob& job) {
  return job.random_weights ? random_model(*job.random_weights) : ModelSource::open(job.config.model.path);
}

std::vector<at::Tensor> random_batches(const TrainConfig& config, std::int64_t vocabulary) {
  std::mt19937_64 generator(static_cast<std::uint64_t>(config.train.seed));
  std::vector<at::Tensor> batches;
  for (std::int64_t i = 0; i < config.train.gradient_accumulation_steps; ++i) {
    at::Tensor& ids = batches.emplace_back(at::empty({config.train.micro_batch_size, config.data.sequence_length}, at::kLong));
    std::int64_t* values = ids.mutable_data_ptr<std::int64_t>();
    for (std::int64_t j = 0; j < ids.numel(); ++j) {
      values[j] = static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(vocabulary));
    }
  }
  return batches;
}

}  // namespace

ModelConfig model_config(const TrainingJob& job) { return job.random_weights ? *job.random_weights : open(job)->config(); }

void use_threads(const TrainConfig& config) {
  if (config.train.threads > 0) at::set_num_threads(static_cast<int>(config.train.threads));
}

TrainingSubject::TrainingSubject(const TrainingJob& job) : config_(job.config) {
  prepare(job);
  step_ = std::make_unique<TrainStep>(*model_, train_step_options(config_));
}

TrainingSubject::TrainingSubject(const TrainingJob& job, Communicator& communicator) : config_(job.config) {
  prepare(job);
  step_ = std::make_unique<TrainStep>(*model_, train_step_options(config_), communicator);
}

void TrainingSubject::prepare(const TrainingJob& job) {
  use_threads(config_);
  const at::Device device = open_device(config_.train);
  std::vector<std::string> notices;
  const NumericTypes types = numeric_types(config_, notices);
  const auto source = open(job);
  model_ = std::make_unique<QuantizedModel>(*source, types.master, quantization_settings(config_.quantization));
  place(*model_, types, device);
  batches_ = random_batches(config_, source->config().vocab_size);
}

int TrainingSubject::threads() const { return at::get_num_threads(); }

std::int64_t TrainingSubject::tensor_bytes_of_step() {
  observer_.reset_peak();
  step();
  return observer_.peak_tensor_bytes();
}

double TrainingSubject::check() {
  return checked_step(*model_, *step_, batches_.front(), train_step_options(config_), config_.train.learning_rate);
}

StepSeconds TrainingSubject::step() {
  const double scale = 1.0 / static_cast<double>(batches_.size());
  StepSeconds seconds;
  const Stopwatch whole;
  for (const at::Tensor& ids : batches_) {
    observer_.begin_micro_batch();
    if (&ids == &batches_.back()) {
      step_->accumulate_last(ids, scale);
    } else {
      step_->accumulate(ids, scale);
    }
    seconds.forward += observer_.forward_seconds();
  }
  seconds.backward = whole.seconds() - seconds.forward;
  step_->update(config_.train.learning_rate);
  seconds.total = whole.seconds();
  seconds.update = seconds.total - seconds.forward - seconds.backward;
  return seconds;
}

StepParts TrainingSubject::step_parts() {
  observer_.observe_parts(true);
  const StepSeconds seconds = step();
  const PartSeconds observed = observer_.parts();
  observer_.observe_parts(false);
  StepParts parts{observed.gemm, observed.attention, observed.head, seconds.update, 0.0};
  parts.rest = seconds.total - parts.gemm - parts.attention - parts.head - parts.update;
  return parts;
}

void TrainingSubject::clear_gradients() {
  const at::NoGradGuard no_grad;
  model_->model().visit_parameters([](const std::string&, ParameterRole, at::Tensor& value) {
    if (value.grad().defined()) value.mutable_grad().zero_();
  });
}

PassCost TrainingSubject::pass() {
  PassCost cost;
  const at::Tensor& ids = batches_.front();
  observer_.reset_peak();
  const Stopwatch forward;
  model_->quantize();
  const at::Tensor hidden = model_->model().hidden_states(ids);
  cost.forward_seconds = forward.seconds();
  cost.forward_bytes = observer_.peak_tensor_bytes();

  observer_.reset_peak();
  const Stopwatch backward;
  const HeadLoss loss = head_forward_backward(model_->model(), hidden.detach(), ids, 1.0);
  hidden.backward(loss.hidden_gradient);
  for (QuantizedWeight& weight : model_->weights()) weight.gradient_sums();
  cost.backward_seconds = backward.seconds();
  cost.backward_bytes = observer_.peak_tensor_bytes();
  clear_gradients();
  if (!std::isfinite(loss.loss())) {
    throw NumericError({"loss of the measured pass", std::to_string(loss.loss()), "a finite number", "report it with the command line"});
  }
  return cost;
}

}  // namespace stableqat::bench
