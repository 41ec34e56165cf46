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

template <class T>
const T* data_or_null(const at::Tensor& x) {
  return x.defined() ? static_cast<const T*>(x.const_data_ptr()) : nullptr;
}

// delta and residual may be undefined. x, delta, sum, y [..., C]; w [C] and inverse_rms [R] float32.
void forward_kernel(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& w, double eps, const at::Tensor& sum,
                    const at::Tensor& y, const at::Tensor& inverse_rms) {
  const auto epsilon = static_cast<float>(eps);
  const float* weight = w.const_data_ptr<float>();
  auto* inverse = inverse_rms.mutable_data_ptr<float>();
  if (gpu::is_on(x)) {
    gpu::require_together({x, delta, w});
    gpu::check(gpu::kernels().rms_norm_forward(gpu::stream_of(x), gpu::element_type(x), inverse_rms.numel(), x.size(-1), x.const_data_ptr(),
                                               data_or_null<void>(delta), weight, epsilon, sum.mutable_data_ptr(), y.mutable_data_ptr(),
                                               inverse));
    return;
  }
  kernels::rms_norm_kernels().forward(inverse_rms.numel(), x.size(-1), x.const_data_ptr<float>(), data_or_null<float>(delta), weight,
                                      epsilon, sum.mutable_data_ptr<float>(), y.mutable_data_ptr<float>(), inverse);
}

void backward_kernel(const at::Tensor& sum, const at::Tensor& w, const at::Tensor& inverse_rms, const at::Tensor& dy,
                     const at::Tensor& residual, const at::Tensor& dx, const at::Tensor& dw) {
  const float* weight = w.const_data_ptr<float>();
  const float* inverse = inverse_rms.const_data_ptr<float>();
  auto* weight_gradient = dw.mutable_data_ptr<float>();
  const std::int64_t columns = sum.size(-1);
  const std::int64_t blocks = gpu::is_on(sum) ? kernels::cuda::kRmsNormBlocks : kernels::kRmsNormBlocks;
  const at::Tensor workspace = at::empty({blocks, columns}, w.options());
  if (gpu::is_on(sum)) {
    gpu::require_together({sum, w, inverse_rms, dy, residual});
    gpu::check(gpu::kernels().rms_norm_backward(gpu::stream_of(sum), gpu::element_type(sum), inverse_rms.numel(), columns,
                                                sum.const_data_ptr(), weight, inverse, dy.const_data_ptr(), data_or_null<void>(residual),
                                                dx.mutable_data_ptr(), weight_gradient, workspace.mutable_data_ptr<float>()));
    return;
  }
  kernels::rms_norm_kernels().backward(inverse_rms.numel(), columns, sum.const_data_ptr<float>(), weight, inverse,
                                       dy.const_data_ptr<float>(), data_or_null<float>(residual), dx.mutable_data_ptr<float>(),
                                       weight_gradient, workspace.mutable_data_ptr<float>());
}

// Returns the sum as well, even where it is x itself: so the gradient that reaches it by other ways arrives here and is added in the same
// pass. Of the normalized rows only 1 / rms is kept.
class RmsNormFunction : public Function<RmsNormFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const std::optional<at::Tensor>& delta, const at::Tensor& w,
                               double eps) {
    const at::Tensor sum = delta ? at::empty_like(x) : x;
    const at::Tensor normed = at::empty_like(x);
    const at::Tensor inverse_rms = at::empty({x.numel() / x.size(-1)}, w.options());
    forward_kernel(x, delta.value_or(at::Tensor()), w, eps, sum, normed, inverse_rms);
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
    const at::Tensor dx = at::empty_like(sum);
    const at::Tensor dw = at::empty_like(w);
    backward_kernel(sum, w, saved[2], dy, residual, dx, dw);
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
