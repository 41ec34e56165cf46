#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "models/kernel_choice.h"
#include "models/tensor_views.h"
#include "stableqat/kernels/rope.h"
#include "stableqat/models/functional.h"

namespace stableqat {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

enum class Direction { kForward, kBackward };

// x [B, T, H, D]; the result is dense.
at::Tensor turned(Direction direction, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const at::Tensor heads = with_dense_heads(x);
  const at::Tensor y = at::empty(x.sizes(), x.options());
  const kernels::RopeShape shape{x.size(0), x.size(1), x.size(2), x.size(3)};
  if (gpu::is_on(x)) {
    gpu::require_together({x, cos, sin});
    gpu::check(gpu::kernels().rope(gpu::stream_of(x), gpu::element_type(x), shape, direction == Direction::kForward ? 1.0F : -1.0F,
                                   cos.const_data_ptr<float>(), sin.const_data_ptr<float>(), heads.const_data_ptr(), strides_of(heads),
                                   y.mutable_data_ptr(), strides_of(y)));
    return y;
  }
  const kernels::RopeKernels& kernels = kernels::rope_kernels();
  (direction == Direction::kForward ? kernels.forward : kernels.backward)(shape, cos.const_data_ptr<float>(), sin.const_data_ptr<float>(),
                                                                          heads_of(heads), writable_heads_of(y));
  return y;
}

class RopeFunction : public Function<RopeFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turned(Direction::kForward, x, cos, sin);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    return {turned(Direction::kBackward, gradients[0], saved[0], saved[1]), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rope_inverse_frequencies(const ModelConfig& config) {
  const std::int64_t half = config.head_dim / 2;
  at::Tensor frequencies = at::pow(config.rope_theta, at::arange(half, at::kDouble) * (-2.0 / static_cast<double>(config.head_dim)));
  if (!config.rope_scaling) return frequencies;
  double* values = frequencies.data_ptr<double>();
  std::transform(values, values + half, values, [&config](double value) { return config.rope_scaling->scaled(value); });
  return frequencies;
}

RopeTable rope_table(const at::Tensor& inverse_frequencies, std::int64_t first, std::int64_t tokens, at::ScalarType dtype) {
  const at::Tensor angles = at::outer(at::arange(first, first + tokens, inverse_frequencies.options()), inverse_frequencies);
  return {angles.cos().to(dtype), angles.sin().to(dtype)};
}

at::Tensor apply_rope_ref(const at::Tensor& x, const RopeTable& table) {
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor first = x.narrow(-1, 0, half);
  const at::Tensor second = x.narrow(-1, half, half);
  const at::Tensor cos = table.cos.unsqueeze(1);
  const at::Tensor sin = table.sin.unsqueeze(1);
  return at::cat({first * cos - second * sin, second * cos + first * sin}, -1).to(x.scalar_type());
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table) {
  return has_kernels(x) ? RopeFunction::apply(x, table.cos, table.sin) : apply_rope_ref(x, table);
}

}  // namespace stableqat
