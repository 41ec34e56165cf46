#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "models/kernel_choice.h"
#include "stableqat/kernels/rms_norm.h"
#include "stableqat/models/functional.h"

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

const float* data_or_null(const at::Tensor& x) { return x.defined() ? x.const_data_ptr<float>() : nullptr; }

// Returns the sum as well, even where it is x itself: so the gradient that reaches it by other ways arrives here and is added in the same
// pass. Of the normalized rows only 1 / rms is kept.
class RmsNormFunction : public Function<RmsNormFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const std::optional<at::Tensor>& delta, const at::Tensor& w,
                               double eps) {
    const std::int64_t columns = x.size(-1);
    const std::int64_t rows = x.numel() / columns;
    const at::Tensor sum = delta ? at::empty_like(x) : x;
    const at::Tensor normed = at::empty_like(x);
    const at::Tensor inverse_rms = at::empty({rows}, x.options());
    kernels::rms_norm_kernels().forward(rows, columns, x.const_data_ptr<float>(), delta ? delta->const_data_ptr<float>() : nullptr,
                                        w.const_data_ptr<float>(), static_cast<float>(eps), sum.data_ptr<float>(), normed.data_ptr<float>(),
                                        inverse_rms.data_ptr<float>());
    context->save_for_backward({sum, w, inverse_rms});
    context->saved_data["adds"] = delta.has_value();
    context->set_materialize_grads(false);
    return {sum, normed};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const bool adds = context->saved_data["adds"].toBool();
    const at::Tensor residual = gradients[0].defined() ? gradients[0].contiguous() : gradients[0];
    if (!gradients[1].defined()) return {residual, adds ? residual : at::Tensor(), at::Tensor(), at::Tensor()};
    const auto saved = context->get_saved_variables();
    const at::Tensor& sum = saved[0];
    const at::Tensor& w = saved[1];
    const at::Tensor dy = gradients[1].contiguous();
    const std::int64_t columns = sum.size(-1);
    const at::Tensor dx = at::empty_like(sum);
    const at::Tensor dw = at::empty_like(w);
    const at::Tensor workspace = at::empty({kernels::kRmsNormBlocks, columns}, sum.options());
    kernels::rms_norm_kernels().backward(sum.numel() / columns, columns, sum.const_data_ptr<float>(), w.const_data_ptr<float>(),
                                         saved[2].const_data_ptr<float>(), dy.const_data_ptr<float>(), data_or_null(residual),
                                         dx.data_ptr<float>(), dw.data_ptr<float>(), workspace.data_ptr<float>());
    return {dx, adds ? dx : at::Tensor(), dw, at::Tensor()};
  }
};

bool is_reduced(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }

}  // namespace

at::Tensor rms_norm_ref(const at::Tensor& x, const at::Tensor& w, double eps) {
  const at::ScalarType type = x.scalar_type();
  const at::Tensor wide = is_reduced(type) ? x.to(at::kFloat) : x;
  const at::Tensor normed = wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps);
  return (normed * w).to(type);
}

NormedSum add_rms_norm_ref(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& w, double eps) {
  const at::Tensor sum = delta.defined() ? x + delta : x;
  return {sum, rms_norm_ref(sum, w, eps)};
}

NormedSum add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& w, double eps) {
  if (!has_kernels(x)) return add_rms_norm_ref(x, delta, w, eps);
  const variable_list results =
      RmsNormFunction::apply(x.contiguous(), delta.defined() ? std::make_optional(delta.contiguous()) : std::nullopt, w, eps);
  return {results[0], results[1]};
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps) { return add_rms_norm(x, {}, w, eps).normed; }

}  // namespace stableqat
