#include "stableqat/train/train_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "quant/gpu.h"
#include "quant/tensor_dispatch.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/update.h"
#include "train/captured_micro_step.h"
#include "train/gradient_exchange.h"
#include "train/weight_exchange.h"

namespace stableqat {

namespace {

// float64, where the tensor is: numbers that sum to the sum of its squares.
at::Tensor squares_of(const at::Tensor& tensor) {
  if (gpu::is_on(tensor)) {
    const std::int64_t blocks = (tensor.numel() + kernels::kSquaresBlock - 1) / kernels::kSquaresBlock;
    const at::Tensor squares = at::empty({blocks}, tensor.options().dtype(at::kDouble));
    gpu::check(
        gpu::kernels().squares(gpu::stream_of(tensor), tensor.numel(), tensor.const_data_ptr<float>(), squares.mutable_data_ptr<double>()));
    return squares;
  }
  return detail::with_float_type(tensor, [&](auto type) {
    using T = decltype(type);
    return at::scalar_tensor(kernels::sum_of_squares<T>(tensor.numel(), tensor.const_data_ptr<T>()), at::kDouble);
  });
}

// [n] float64, where they are: the sum of each tensor.
at::Tensor sums_of_each(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> sums;
  for (const at::Tensor& tensor : tensors) sums.push_back(tensor.sum(at::kDouble));
  return at::stack(sums);
}

// [] float64: the sum of all of them. A GPU does better with one large sum than with hundreds of small ones.
at::Tensor sum_of_all(const std::vector<at::Tensor>& tensors, const at::TensorOptions& options) {
  if (tensors.empty()) return at::zeros(at::IntArrayRef{}, options.dtype(at::kDouble));
  return at::cat(tensors).sum();
}

// Waits for a GPU.
std::vector<double> numbers(const at::Tensor& tensor) {
  const at::Tensor all = tensor.cpu();
  return {all.const_data_ptr<double>(), all.const_data_ptr<double>() + all.numel()};
}

void require_one_gpu(at::Device device, const Communicator& communicator) {
  if (device.is_cpu() || communicator.ranks() > 1) {
    throw ConfigError(
        {"train.cuda_graph", device.is_cpu() ? "true on a CPU" : "true with several ranks", "one GPU", "leave train.cuda_graph out"});
  }
}

}  // namespace

StepReport step_report(std::span<const double> numbers) {
  return {.norms = {.total = numbers[0], .projection_weights = numbers[1], .scales = numbers[2]},
          .counts = {.changed = static_cast<std::int64_t>(numbers[3]), .clipped = static_cast<std::int64_t>(numbers[4])}};
}

void require_finite(const GradientNorms& norms) {
  if (std::isfinite(norms.total)) return;
  throw NumericError({"gradient", "a norm that is not finite", "finite gradients",
                      "lower train.learning_rate, or check the data of this step; the weights are those of the step before"});
}

TrainStep::TrainStep(QuantizedModel& model, const TrainStepOptions& options)
    : model_(model), options_(options), alone_(single_process()), communicator_(*alone_), optimizer_(collect(), options.adamw) {
  connect();
}

TrainStep::TrainStep(QuantizedModel& model, const TrainStepOptions& options, Communicator& communicator)
    : model_(model), options_(options), communicator_(communicator), optimizer_(collect(), options.adamw) {
  connect();
}

TrainStep::~TrainStep() = default;

RowRange TrainStep::own_rows(const at::Tensor& tensor) const {
  return rows_of_rank(tensor.size(0), communicator_.rank(), communicator_.ranks());
}

std::vector<TrainedTensor> TrainStep::collect() {
  std::vector<TrainedTensor> tensors;
  const auto add = [&](Slot slot, TrainedTensor tensor) {
    slots_.push_back(std::move(slot));
    tensors.push_back(std::move(tensor));
  };
  std::vector<QuantizedWeight>& weights = model_.weights();
  std::size_t next = 0;
  model_.model().visit_parameters([&](const std::string& name, ParameterRole role, at::Tensor& value) {
    const RowRange own = own_rows(value);
    const std::int64_t rows = value.size(0);
    if (next < weights.size() && weights[next].dequantized().is_same(value)) {
      QuantizedWeight& weight = weights[next];
      if (own.count < rows) weight.keep_rows(own);
      const double ratio = options_.scale_learning_rate_ratio;
      add({Kind::kMaster, next, {}, {}}, {name, weight.master(), 1.0, true, own, rows});
      add({Kind::kScale, next, {}, {}}, {weight.name() + ".weight_clip_val", weight.scale(), ratio, false, own, rows});
      // Every rank knows the whole gradient of alpha and moves its own copy alike.
      if (weight.alpha().defined())
        add({Kind::kAlpha, next, {}, {}}, {weight.name() + ".alpha_dsq", weight.alpha(), ratio, false, {0, 1}, 1});
      ++next;
      return;
    }
    const bool matrix = value.dim() > 1;
    add({role == ParameterRole::kProjection ? Kind::kProjection : Kind::kPlain, 0, value, {}},
        {name, value.detach().narrow(0, own.first, own.count), 1.0, matrix, own, rows});
  });
  return tensors;
}

// Gradients that stay from step to step, and the exchanges with other ranks.
void TrainStep::connect() {
  const at::NoGradGuard no_grad;
  for (QuantizedWeight& weight : model_.weights()) weight.clear_gradient();
  for (const Slot& slot : slots_) {
    if (slot.leaf.defined()) detail::dense_gradient(slot.leaf).zero_();
  }
  runs_ahead_ = can_run_ahead();
  if (options_.cuda_graph) {
    require_one_gpu(model_.model().device(), communicator_);
    captured_ = std::make_unique<CapturedMicroStep>(model_.model(), options_.recompute);
  }
  if (communicator_.ranks() == 1) return;
  std::multimap<std::int64_t, at::Tensor> by_turn;
  model_.model().visit_parameters(
      [&](const std::string& name, ParameterRole role, at::Tensor& value) { by_turn.emplace(turn_in_backward(name, role), value); });
  std::vector<at::Tensor> leaves;
  for (auto& [turn, leaf] : by_turn) leaves.push_back(leaf);
  std::vector<at::Tensor> plain;
  for (const Slot& slot : slots_) {
    if (slot.leaf.defined()) plain.push_back(slot.leaf.detach());
  }
  gradients_ = std::make_unique<GradientExchange>(communicator_, leaves, ReductionOptions{options_.reduce_in_bf16, options_.bucket_bytes});
  weights_ = std::make_unique<WeightExchange>(communicator_, model_, std::move(plain), options_.bucket_bytes);
}

bool TrainStep::can_run_ahead() const {
  const auto is_alpha = [](const Slot& slot) { return slot.kind == Kind::kAlpha; };
  return !model_.model().device().is_cpu() && std::none_of(slots_.begin(), slots_.end(), is_alpha);
}

HeadLoss TrainStep::accumulate(const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  HeadLoss loss;
  if (captured_) {
    loss = captured_->run(ids, gradient_scale, teacher);
  } else {
    // Not blocking: a GPU's queue need not be empty before the tokens are copied into it.
    const at::Tensor there = ids.to(at::TensorOptions().device(model_.model().device()), /*non_blocking=*/true);
    loss = forward_backward(model_.model(), there, gradient_scale, options_.recompute, teacher);
  }
  if (runs_ahead_) soundness_ = soundness_.defined() ? soundness_ + loss.losses : loss.losses;
  return loss;
}

HeadLoss TrainStep::accumulate_last(const at::Tensor& ids, double gradient_scale, const Teacher* teacher) {
  if (gradients_) gradients_->begin();
  HeadLoss loss = accumulate(ids, gradient_scale, teacher);
  if (gradients_) gradients_->finish();
  return loss;
}

std::int64_t TrainStep::replays() const noexcept { return captured_ ? captured_->replays() : 0; }

void TrainStep::quantize() {
  model_.quantize();
  if (!weights_) return;
  weights_->run();
  model_.refresh_products();
}

std::vector<at::Tensor> TrainStep::mapped_gradients() const {
  std::vector<at::Tensor> gradients;
  QuantizedWeight::Gradients mapped;
  for (const Slot& slot : slots_) {
    if (slot.kind == Kind::kMaster) {
      mapped = model_.weights()[slot.weight].map_gradient();
      gradients.push_back(std::move(mapped.master));
    } else if (slot.kind == Kind::kScale) {
      gradients.push_back(std::move(mapped.scale));
    } else if (slot.kind == Kind::kAlpha) {
      gradients.push_back(std::move(mapped.alpha));
    } else {
      gradients.push_back(slot.leaf.grad());
    }
  }
  return gradients;
}

at::Tensor TrainStep::measure_gradients() {
  QuantizedWeight::GradientSums sums;  // of the weight whose slots follow each other
  std::vector<at::Tensor> squares;     // of each slot's gradient; for alphas the gradient itself
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.kind == Kind::kMaster) {
      sums = model_.weights()[slot.weight].gradient_sums();
      squares.push_back(sums.master_squares);
    } else if (slot.kind == Kind::kAlpha) {
      squares.push_back(sums.alpha);
    } else {
      const RowRange& own = optimizer_.tensors()[i].rows;
      slot.gradient = slot.kind == Kind::kScale ? std::move(sums.scale) : detail::dense_gradient(slot.leaf).narrow(0, own.first, own.count);
      squares.push_back(squares_of(slot.gradient));
    }
  }
  return runs_ahead_ ? norms_on_gpu(squares) : norms_of(numbers(sums_of_each(squares)));
}

at::Tensor TrainStep::norms_of(const std::vector<double>& squares) {
  std::vector<double> parts(3);  // all, projections, scales; then the gradient of each alpha, of which every rank has a part
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Kind kind = slots_[i].kind;
    if (kind == Kind::kAlpha) {
      parts.push_back(squares[i]);
      continue;
    }
    parts[0] += squares[i];
    if (is_projection(kind)) parts[1] += squares[i];
    if (kind == Kind::kScale) parts[2] += squares[i];
  }
  parts = sum_over_ranks(communicator_, parts);
  std::size_t next = 3;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].kind != Kind::kAlpha) continue;
    const double gradient = parts[next++];
    slots_[i].gradient = at::full_like(optimizer_.tensors()[i].value, gradient);
    parts[0] += gradient * gradient;
  }
  return at::tensor({std::sqrt(parts[0]), std::sqrt(parts[1]), std::sqrt(parts[2])}, at::kDouble);
}

at::Tensor TrainStep::norms_on_gpu(const std::vector<at::Tensor>& squares) const {
  std::vector<at::Tensor> projections;
  std::vector<at::Tensor> scales;
  std::vector<at::Tensor> others;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Kind kind = slots_[i].kind;
    (is_projection(kind) ? projections : kind == Kind::kScale ? scales : others).push_back(squares[i]);
  }
  const at::TensorOptions options = squares.front().options();
  const at::Tensor of_projections = sum_of_all(projections, options);
  const at::Tensor of_scales = sum_of_all(scales, options);
  at::Tensor parts = at::stack({of_projections + of_scales + sum_of_all(others, options), of_projections, of_scales});
  if (soundness_.defined()) parts += (soundness_ * 0.0).sum();
  return parts.sqrt();
}

void TrainStep::begin_clipped_step(double learning_rate, const at::Tensor& norms) {
  const double limit = options_.max_grad_norm;
  if (runs_ahead_) {
    const at::Tensor total = norms[0];
    const at::Tensor factor = limit > 0.0 ? (limit / (total + 1e-6)).clamp_max(1.0) : at::ones_like(total);
    optimizer_.begin_step(learning_rate, factor + total * 0.0);  // not finite if the norm is not
    return;
  }
  const double total = norms.const_data_ptr<double>()[0];
  optimizer_.begin_step(learning_rate, limit > 0.0 ? std::min(1.0, limit / (total + 1e-6)) : 1.0);
}

at::Tensor TrainStep::counts(at::Device device) {
  const bool is_alone = communicator_.ranks() == 1;
  if (is_alone && model_.weights().empty()) return at::zeros({2}, at::TensorOptions(at::kDouble).device(device));
  const at::Tensor own = QuantizedWeight::last_counts_tensor(model_.weights());
  if (is_alone) return own.to(device);
  return at::tensor(sum_over_ranks(communicator_, numbers(own)), at::kDouble);
}

at::Tensor TrainStep::start_update(double learning_rate) {
  RECORD_USER_SCOPE("update");
  const at::NoGradGuard no_grad;
  const at::Tensor norms = measure_gradients();
  if (runs_ahead_) {
    soundness_ = norms[0];
  } else {
    require_finite({.total = norms.const_data_ptr<double>()[0]});
  }
  begin_clipped_step(learning_rate, norms);
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].kind != Kind::kMaster) optimizer_.update(i, slots_[i].gradient);
  }
  // Masters last: they are quantized with the new scales.
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].kind != Kind::kMaster) continue;
    QuantizedWeight& weight = model_.weights()[slots_[i].weight];
    weight.update(optimizer_.rule(i), optimizer_.first_moment(i), optimizer_.second_moment(i), optimizer_.gradient_factor_on_gpu());
  }
  if (weights_) weights_->run();
  const at::Tensor all_numbers = at::cat({norms, counts(norms.device())});
  model_.refresh_products();
  return all_numbers;
}

void TrainStep::take_back(std::int64_t steps) {
  optimizer_.set_steps(optimizer_.steps() - steps);
  soundness_ = at::Tensor();
}

StepReport TrainStep::update(double learning_rate) {
  const StepReport report = step_report(numbers(start_update(learning_rate)));
  if (!std::isfinite(report.norms.total)) take_back(1);
  require_finite(report.norms);
  return report;
}

}  // namespace stableqat
