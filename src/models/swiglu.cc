#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <torch/csrc/autograd/custom_function.h>

#include "models/kernel_choice.h"
#include "stableqat/kernels/swiglu.h"
#include "stableqat/models/functional.h"

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

class SwigluFunction : public Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    at::Tensor y = at::empty_like(gate);
    if (gpu::is_on(gate)) {
      gpu::require_together({gate, up});
      gpu::check(gpu::kernels().swiglu_forward(gpu::stream_of(gate), gpu::element_type(gate), gate.numel(), gate.const_data_ptr(),
                                               up.const_data_ptr(), y.mutable_data_ptr()));
    } else {
      kernels::swiglu_kernels().forward(gate.numel(), gate.const_data_ptr<float>(), up.const_data_ptr<float>(), y.data_ptr<float>());
    }
    context->save_for_backward({gate, up});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& gate = saved[0];
    const at::Tensor& up = saved[1];
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dgate = at::empty_like(dy);
    at::Tensor dup = at::empty_like(dy);
    if (gpu::is_on(dy)) {
      gpu::require_together({dy, gate, up});
      gpu::check(gpu::kernels().swiglu_backward(gpu::stream_of(dy), gpu::element_type(dy), dy.numel(), gate.const_data_ptr(),
                                                up.const_data_ptr(), dy.const_data_ptr(), dgate.mutable_data_ptr(),
                                                dup.mutable_data_ptr()));
    } else {
      kernels::swiglu_kernels().backward(dy.numel(), gate.const_data_ptr<float>(), up.const_data_ptr<float>(), dy.const_data_ptr<float>(),
                                         dgate.data_ptr<float>(), dup.data_ptr<float>());
    }
    return {dgate, dup};
  }
};

}  // namespace

at::Tensor swiglu_ref(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate) * up; }

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  if (!has_kernels(gate)) return swiglu_ref(gate, up);
  return SwigluFunction::apply(gate.contiguous(), up.contiguous());
}

}  // namespace stableqat
