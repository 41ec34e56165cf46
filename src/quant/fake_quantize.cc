#include "stableqat/quant/fake_quantize.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/log.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/round.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numbers>
#include <optional>
#include <string>

#include "stableqat/base/error.h"

namespace stableqat {
namespace {

constexpr double kMinScale = 1e-5;
constexpr double kSeqClip = 0.99;

// The value and its three partial derivatives as the backward takes them, each [N, G, C] (columns of one scale last).
struct Linearization {
  at::Tensor value;
  at::Tensor weight_slope;
  at::Tensor scale_slope;
  at::Tensor alpha_slope;  // undefined unless DSQ
};

at::Tensor within(const at::Tensor& x, double low, double high) { return at::logical_and(x >= low, x <= high); }

at::Tensor to_half_grid(const at::Tensor& positive) { return positive.to(at::kHalf).to(positive.scalar_type()); }

at::Tensor fourier_slope(const Surrogate& surrogate, const at::Tensor& distance) {
  if (surrogate.is_straight_through()) return at::ones_like(distance);
  at::Tensor sum = at::zeros_like(distance);
  double frequency = std::numbers::pi;
  for (const double amplitude : surrogate.amplitudes()) {
    sum = sum + at::cos(distance * frequency) * (std::numbers::sqrt2 * std::numbers::pi * amplitude);
    frequency += 2 * std::numbers::pi;
  }
  return (1 - sum) / (1 + sum);
}

Linearization sign(const QuantizerSpec& spec, const at::Tensor& w, const at::Tensor& s) {
  const at::Tensor scale = spec.fp16_scales ? to_half_grid(s) : s;
  const at::Tensor x = w / scale;
  const at::Tensor signs = at::where(x >= 0, at::ones_like(x), -at::ones_like(x));
  const double edge = spec.kind == QuantizerKind::kSeq ? kSeqClip : 1.0;
  return {signs * scale, within(x, -edge, edge) * fourier_slope(spec.surrogate, x - at::round(x)), signs, {}};
}

Linearization lsq(const QuantizerSpec& spec, const at::Tensor& w, const at::Tensor& s) {
  const at::Tensor scale = spec.fp16_scales ? to_half_grid(s) : s;
  const double low = q_min(spec.bits);
  const double high = q_max(spec.bits);
  const at::Tensor x = w / scale;
  const at::Tensor q = at::clamp(at::round(x), low, high);
  const at::Tensor inside = within(x, low, high);
  return {q * scale, inside * fourier_slope(spec.surrogate, x - q), at::where(inside, q - x, q), {}};
}

Linearization seq(const QuantizerSpec& spec, const at::Tensor& w, const at::Tensor& s) {
  const bool ternary = spec.bits == 0;
  const double levels = ternary ? 1.5 : std::ldexp(1.0, spec.bits - 1);
  const double shift = ternary ? 0.0 : 0.5;
  const double steps = ternary ? levels : 2 * levels;
  const at::Tensor scale = spec.fp16_scales ? to_half_grid(s / steps) * steps : s;
  const at::Tensor x = w / scale;
  const at::Tensor v = at::clamp(x, -kSeqClip, kSeqClip) * levels - shift;
  const at::Tensor q = at::round(v);
  const at::Tensor value = (q + shift) / levels;
  const at::Tensor inside = within(x, -kSeqClip, kSeqClip);
  const double edge = (levels - shift) / levels;
  const at::Tensor outside = at::where(x < 0, -edge * at::ones_like(x), edge * at::ones_like(x));
  return {(q + shift) * (steps / levels) * (scale / steps),
          inside * fourier_slope(spec.surrogate, v - q),
          at::where(inside, value - x, outside),
          {}};
}

at::Tensor round_half_down(const at::Tensor& x) {
  const at::Tensor nearest = at::round(x);
  return at::where(nearest - x == 0.5, nearest - 1, nearest);
}

// Per unit interval: (tanh(k (x - middle)) / (1 - alpha) + 1) / 2 with k = log(2 / alpha - 1).
Linearization dsq(const QuantizerSpec& spec, const at::Tensor& w, const at::Tensor& s, const at::Tensor& alpha) {
  const at::Tensor scale = spec.fp16_scales ? to_half_grid(s) : s;
  const double low = q_min(spec.bits);
  const double high = q_max(spec.bits);
  const at::Tensor x = w / scale;
  const at::Tensor q = at::clamp(round_half_down(x), low, high);
  const at::Tensor inside = within(x, low - 0.5, high + 0.5);
  const at::Tensor bounded = at::clamp(alpha, 1e-3, 1 - 1e-3);
  const at::Tensor k = at::log(2 / bounded - 1);
  const at::Tensor stretch = 1 / (1 - bounded);
  const at::Tensor distance = x - at::floor(x) - 0.5;
  const at::Tensor tanh = at::tanh(k * distance);
  const at::Tensor tanh_slope = 1 - tanh * tanh;
  const at::Tensor slope = inside * (0.5 * stretch * k * tanh_slope);
  const at::Tensor k_slope = -2 / (bounded * (2 - bounded));
  const at::Tensor alpha_slope = inside * scale * (0.5 * (stretch * stretch * tanh + stretch * tanh_slope * distance * k_slope));
  return {q * scale, slope, q - x * slope, alpha_slope};
}

Linearization linearize(const QuantizerSpec& spec, const at::Tensor& weight, const at::Tensor& scale, const at::Tensor& alpha) {
  const auto compute = weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor w = weight.to(compute).reshape({weight.size(0), scale.size(1), -1});
  const at::Tensor s = at::clamp_min(scale.to(compute), kMinScale).unsqueeze(-1);
  if (spec.kind == QuantizerKind::kDsq) return dsq(spec, w, s, alpha.to(compute));
  if (spec.bits == 1) return sign(spec, w, s);
  return spec.kind == QuantizerKind::kSeq ? seq(spec, w, s) : lsq(spec, w, s);
}

class FakeQuantizeFunction : public torch::autograd::Function<FakeQuantizeFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& weight, const at::Tensor& scale,
                            const std::optional<at::Tensor>& alpha, const QuantizerSpec& spec) {
    const Linearization result = linearize(spec, weight, scale, alpha.value_or(at::Tensor()));
    context->save_for_backward({result.weight_slope, result.scale_slope, result.alpha_slope});
    context->saved_data["scale_factor"] = spec.scale_gradient_factor(weight.numel());
    context->saved_data["scale_type"] = scale.scalar_type();
    return result.value.reshape(weight.sizes()).to(weight.scalar_type());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& incoming = gradients[0];
    const at::Tensor grouped = incoming.to(saved[0].scalar_type()).reshape(saved[0].sizes());
    const at::Tensor weight = (grouped * saved[0]).reshape(incoming.sizes()).to(incoming.scalar_type());
    const at::Tensor scale = ((grouped * saved[1]).sum(-1) * context->saved_data["scale_factor"].toDouble())
                                 .to(context->saved_data["scale_type"].toScalarType());
    const at::Tensor alpha = saved[2].defined() ? (grouped * saved[2]).sum().reshape({1}).to(scale.scalar_type()) : at::Tensor();
    return {weight, scale, alpha, at::Tensor()};
  }
};

}  // namespace

at::Tensor fake_quantize_autograd(const at::Tensor& weight, const at::Tensor& scale, const QuantizerSpec& spec, const at::Tensor& alpha) {
  spec.validate();
  if (weight.dim() != 2 || scale.dim() != 2 || scale.size(0) != weight.size(0) || scale.size(1) != spec.scales_per_row(weight.size(1))) {
    throw ConfigError({"fake_quantize_autograd",
                       "weight of " + std::to_string(weight.dim()) + " dimensions, scale of " + std::to_string(scale.numel()) + " values",
                       "weight [N, M] and scale [N, G]", ""});
  }
  if ((spec.kind == QuantizerKind::kDsq) != alpha.defined()) {
    throw ConfigError({"fake_quantize_autograd", alpha.defined() ? "an alpha" : "no alpha", "an alpha for dsq, and for dsq only", ""});
  }
  return FakeQuantizeFunction::apply(weight, scale, alpha.defined() ? std::optional(alpha) : std::nullopt, spec);
}

}  // namespace stableqat
