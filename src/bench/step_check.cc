#include "bench/step_check.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/max.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/quant/fake_quantize.h"

namespace stableqat::bench {

namespace {

std::string number(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

[[noreturn]] void differs(const std::string& what, double found, double allowed) {
  throw NumericError({what, "a deviation of " + number(found), "at most " + number(allowed),
                      "the timed code computes something else than its plain form: report it with the command line"});
}

double epsilon(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? std::numeric_limits<double>::epsilon()
                                             : static_cast<double>(std::numeric_limits<float>::epsilon());
}

double largest(const at::Tensor& tensor) { return tensor.abs().max().item<double>(); }

// f(weight), or of a weight on a GPU f(its copy on the CPU).
template <class F>
void with_cpu_weight(const QuantizedWeight& weight, F&& f) {
  if (weight.master().is_cpu()) {
    f(weight);
  } else {
    f(weight.cpu_copy());
  }
}

// First, middle, last.
std::set<std::size_t> probed_weights(const QuantizedModel& model) {
  const std::size_t count = model.weights().size();
  if (count == 0) return {};
  return {0, count / 2, count - 1};
}

// `bound`: the size of the terms that the values are made of, each off by a few units in the last place.
void require_near(const std::string& what, const at::Tensor& found, const at::Tensor& expected, double bound) {
  constexpr double kRoundings = 64;  // of a surrogate's slope, whose denominator can be as small as 0.067
  const double deviation = largest(found - expected);
  const double allowed = kRoundings * epsilon(expected) * bound;
  if (!(deviation <= allowed)) differs(what, deviation, allowed);
}

// By the plain map, and as the optimizer gets them.
void check_gradients(const QuantizedWeight& weight, const QuantizedWeight::GradientSums& sums) {
  const at::Tensor incoming = weight.dequantized().grad().detach();
  const QuantizedWeight::Gradients found = weight.map_gradient();
  at::Tensor master = weight.master().detach().clone().requires_grad_();
  at::Tensor scale = weight.scale().detach().clone().requires_grad_();
  at::Tensor alpha = weight.alpha().defined() ? weight.alpha().detach().clone().requires_grad_() : at::Tensor();
  {
    const at::AutoGradMode grad(true);
    fake_quantize_autograd(master, scale, weight.spec(), alpha).backward(incoming);
  }
  // Each scale's gradient is a sum over its weights, alpha's over all: errors are bounded by the sums of the sizes of the terms.
  const at::Tensor size = incoming.abs();
  const at::Tensor terms = (size * (weight.codes().abs() + 1)).view({scale.numel(), -1}).sum(1);
  require_near(weight.name() + ", gradient of the weight", found.master, master.grad(), largest(size));
  const double scale_bound = largest(terms) * weight.spec().scale_gradient_factor(incoming.numel());
  for (const at::Tensor& gradient : {found.scale, sums.scale.cpu()}) {
    require_near(weight.name() + ", gradient of the scale", gradient, scale.grad(), scale_bound);
  }
  if (!alpha.defined()) return;
  const double alpha_bound = size.sum().item<double>() * largest(scale.detach());
  for (const at::Tensor& gradient : {found.alpha, sums.alpha.cpu()}) {
    require_near(weight.name() + ", gradient of alpha", gradient, alpha.grad(), alpha_bound);
  }
}

template <class T>
void check_codes(const QuantizedWeight& weight) {
  const kernels::QuantRule rule = weight.spec().rule();
  at::Tensor codes = at::empty_like(weight.codes());
  at::Tensor dequantized = at::empty_like(weight.master());
  const std::int64_t segments = weight.scale().numel();
  kernels::fake_quantize_ref<T>(rule, segments, weight.master().numel() / segments, weight.master().const_data_ptr<T>(),
                                weight.scale().const_data_ptr<T>(), codes.mutable_data_ptr<std::int8_t>(),
                                dequantized.mutable_data_ptr<T>());
  if (!at::equal(codes, weight.codes())) differs(weight.name() + ", codes", largest(codes.to(at::kInt) - weight.codes().to(at::kInt)), 0);
  at::Tensor in_use = weight.product();
  if (!in_use.defined()) {
    in_use = weight.has_dequantized() ? weight.dequantized().detach()
                                      : (weight.codes().view({segments, -1}) * weight.step().view({-1, 1})).view(codes.sizes());
  }
  dequantized = dequantized.to(in_use.scalar_type());
  if (!at::equal(dequantized, in_use)) differs(weight.name() + ", dequantized weights", largest(dequantized - in_use), 0);
}

// What is needed to follow one tensor through AdamW's first step.
struct Probe {
  const TrainedTensor* tensor;
  at::Tensor before;
  at::Tensor gradient;
};

// After one step both corrected moments are the gradient's own: value - rate * g / (|g| + epsilon), after decay.
void check_first_step(const Probe& probe, const AdamWOptions& options, double learning_rate, double gradient_factor) {
  const double rate = learning_rate * probe.tensor->learning_rate_ratio;
  const at::Tensor g = probe.gradient.to(at::kDouble) * gradient_factor;
  const at::Tensor before = probe.before.to(at::kDouble) * (probe.tensor->decay ? 1 - rate * options.weight_decay : 1.0);
  const at::Tensor expected = before - rate * g / (g.abs() + options.epsilon);
  const double deviation = largest(probe.tensor->value.cpu().to(at::kDouble) - expected);
  const double allowed = epsilon(probe.before) * (largest(probe.before) + 16 * rate);
  if (!(deviation <= allowed)) differs(probe.tensor->name + " after one step", deviation, allowed);
}

std::vector<Probe> probes(QuantizedModel& model, TrainStep& step) {
  std::vector<Probe> probes;
  const auto follow = [&](const at::Tensor& value, const at::Tensor& gradient) {
    for (const TrainedTensor& tensor : step.optimizer().tensors()) {
      if (tensor.value.data_ptr() == value.data_ptr()) {
        probes.push_back({&tensor, value.detach().cpu().clone(), gradient.cpu().clone()});
      }
    }
  };
  for (const std::size_t i : probed_weights(model)) {
    QuantizedWeight& weight = model.weights()[i];
    const QuantizedWeight::GradientSums sums = weight.gradient_sums();
    follow(weight.master(), weight.map_gradient().master);
    follow(weight.scale(), sums.scale);
    if (weight.alpha().defined()) follow(weight.alpha(), sums.alpha);
  }
  bool has_matrix = !probes.empty();  // of a model that is not quantized the first one is followed
  model.model().visit_parameters([&](const std::string&, ParameterRole role, at::Tensor& value) {
    const bool is_first_matrix = role == ParameterRole::kProjection && !std::exchange(has_matrix, true);
    if (role == ParameterRole::kNorm || is_first_matrix) follow(value, value.grad());
  });
  return probes;
}

}  // namespace

double checked_step(QuantizedModel& model, TrainStep& step, const at::Tensor& ids, const TrainStepOptions& options, double learning_rate) {
  const double loss = step.accumulate(ids, 1.0).loss();
  if (!std::isfinite(loss)) {
    throw NumericError({"loss of the first step", std::to_string(loss), "a finite number", "try --train.precision float32"});
  }
  const at::NoGradGuard no_grad;
  for (const std::size_t i : probed_weights(model)) {
    const QuantizedWeight::GradientSums sums = model.weights()[i].gradient_sums();
    with_cpu_weight(model.weights()[i], [&sums](const QuantizedWeight& weight) { check_gradients(weight, sums); });
  }
  const std::vector<Probe> followed = probes(model, step);
  const StepReport report = step.update(learning_rate);
  double factor = 1.0;
  if (options.max_grad_norm > 0) factor = std::min(1.0, options.max_grad_norm / (report.norms.total + 1e-6));
  for (const Probe& probe : followed) check_first_step(probe, options.adamw, learning_rate, factor);
  for (const std::size_t i : probed_weights(model)) {
    with_cpu_weight(model.weights()[i], [](const QuantizedWeight& weight) {
      if (weight.master().scalar_type() == at::kDouble) {
        check_codes<double>(weight);
      } else {
        check_codes<float>(weight);
      }
    });
  }
  return loss;
}

}  // namespace stableqat::bench
