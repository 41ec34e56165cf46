#include "stableqat/models/functional.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

class LinearFunction : public Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& compute) {
    context->save_for_backward({x, w, compute.value_or(at::Tensor())});
    return at::matmul(x, compute.value_or(w).t());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    at::Tensor w = saved[1];
    const at::Tensor& operand = saved[2].defined() ? saved[2] : w;
    const at::Tensor dy = rows_of(gradients[0]);
    at::Tensor dx;
    if (context->needs_input_grad(0)) dx = at::mm(dy, operand).view(x.sizes());
    at::Tensor dw;
    if (context->needs_input_grad(1)) {
      if (w.is_leaf()) {
        accumulate(w, dy.t(), rows_of(x));
      } else {
        dw = at::mm(dy.t(), rows_of(x));
      }
    }
    return {dx, dw, at::Tensor()};
  }

 private:
  static void accumulate(at::Tensor& w, const at::Tensor& dy_t, const at::Tensor& x) {
    at::Tensor& gradient = w.mutable_grad();
    if (!gradient.defined()) {
      gradient = at::mm(dy_t, x).to(w.scalar_type());
    } else if (gradient.scalar_type() == x.scalar_type()) {
      gradient.addmm_(dy_t, x);
    } else {
      gradient.add_(at::mm(dy_t, x));
    }
  }
};

class EmbeddingFunction : public Function<EmbeddingFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& table, const at::Tensor& ids) {
    context->save_for_backward({table, ids});
    std::vector<std::int64_t> sizes = ids.sizes().vec();
    sizes.push_back(table.size(1));
    return table.index_select(0, ids.reshape({-1})).view(sizes);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    at::Tensor table = saved[0];
    at::Tensor& gradient = table.mutable_grad();
    if (!gradient.defined()) gradient = at::zeros_like(table);
    gradient.index_add_(0, saved[1].reshape({-1}), rows_of(gradients[0]).to(table.scalar_type()));
    return {at::Tensor(), at::Tensor()};
  }
};

bool is_reduced(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& compute, const at::Tensor& b) {
  const at::Tensor y = LinearFunction::apply(x, w, compute.defined() ? std::make_optional(compute) : std::nullopt);
  return b.defined() ? y + b.to(y.scalar_type()) : y;
}

at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& ids) { return EmbeddingFunction::apply(table, ids); }

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps) {
  const at::ScalarType type = x.scalar_type();
  const at::Tensor wide = is_reduced(type) ? x.to(at::kFloat) : x;
  const at::Tensor normed = wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps);
  return (normed * w).to(type);
}

at::Tensor rope_inverse_frequencies(const ModelConfig& config) {
  const std::int64_t half = config.head_dim / 2;
  at::Tensor frequencies = at::pow(config.rope_theta, at::arange(half, at::kDouble) * (-2.0 / static_cast<double>(config.head_dim)));
  if (!config.rope_scaling) return frequencies;
  const RopeScaling& scaling = *config.rope_scaling;
  const double original = static_cast<double>(scaling.original_max_position_embeddings);
  double* values = frequencies.data_ptr<double>();
  for (std::int64_t i = 0; i < half; ++i) {
    const double wavelength = 2 * std::numbers::pi / values[i];
    if (wavelength > original / scaling.low_freq_factor) {
      values[i] /= scaling.factor;
    } else if (wavelength >= original / scaling.high_freq_factor) {
      const double blend = (original / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
      values[i] *= (1 - blend) / scaling.factor + blend;
    }
  }
  return frequencies;
}

RopeTable rope_table(const at::Tensor& inverse_frequencies, std::int64_t first, std::int64_t tokens, at::ScalarType dtype) {
  const at::Tensor angles = at::outer(at::arange(first, first + tokens, at::kDouble), inverse_frequencies);
  const at::Tensor both = at::cat({angles, angles}, -1);
  return {both.cos().to(dtype), both.sin().to(dtype)};
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table) {
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor rotated = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  return (x * table.cos + rotated * table.sin).to(x.scalar_type());
}

}  // namespace stableqat
