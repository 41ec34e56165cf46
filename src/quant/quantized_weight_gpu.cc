// QuantizedWeight on a GPU.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <vector>

#include "quant/gpu.h"
#include "quant/tensor_dispatch.h"
#include "stableqat/quant/quantized_weight.h"

namespace stableqat {

void QuantizedWeight::move_to(at::Device device, at::ScalarType product_type) {
  const at::NoGradGuard no_grad;
  gpu::kernels();
  if (master_.scalar_type() != at::kFloat) {
    throw ConfigError(
        {name_, at::toString(master_.scalar_type()) + std::string(" masters on a GPU"), "float32", "use train.precision auto"});
  }
  // Not alpha, which kernels take by value.
  for (at::Tensor* tensor : {&master_, &scale_, &scale_in_use_, &codes_, &steps_}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  gpu_counts_ = at::zeros({2}, codes_.options().dtype(at::kLong));
  if (product_type == master_.scalar_type()) {
    dequantized_ = dequantized_.detach().to(device).contiguous().requires_grad_();
    return;
  }
  product_ = dequantized_.detach().to(device).to(product_type).contiguous();
  const double no_value = std::numeric_limits<double>::quiet_NaN();
  dequantized_ = at::full({1, 1}, no_value, master_.options()).expand(codes_.sizes()).detach().requires_grad_();
}

QuantizedWeight QuantizedWeight::cpu_copy() const {
  const at::NoGradGuard no_grad;
  QuantizedWeight copy(master_.cpu().clone(), spec_, scale_in_use_.cpu().clone(),
                       alpha_.defined() ? std::optional(alpha_in_use_.clone()) : std::nullopt, name_);
  copy.scale_ = scale_.cpu().clone();
  if (alpha_.defined()) copy.alpha_ = alpha_.clone();
  copy.codes_ = codes_.cpu().clone();
  if (product_.defined()) copy.product_ = product_.cpu().clone();
  copy.dequantized_.copy_(dequantized_.cpu());
  if (dequantized_.grad().defined()) copy.dequantized_.mutable_grad() = dequantized_.grad().cpu().clone();
  copy.counts_ = last_counts();
  copy.quantized_once_ = quantized_once_;
  return copy;
}

kernels::cuda::DequantizedOutput QuantizedWeight::gpu_output() const {
  const at::Tensor& output = product_.defined() ? product_ : dequantized_;
  return {gpu::element_type(output), output.mutable_data_ptr()};
}

kernels::cuda::CountsPointer QuantizedWeight::cleared_gpu_counts() {
  gpu_counts_.zero_();
  return reinterpret_cast<kernels::cuda::CountsPointer>(gpu_counts_.mutable_data_ptr<std::int64_t>());
}

void QuantizedWeight::quantize_on_gpu() {
  const at::NoGradGuard no_grad;
  gpu::check(gpu::kernels().quantize(gpu::stream_of(master_), rule_, scale_.numel(), segment_length(), master_.const_data_ptr<float>(),
                                     scale_.const_data_ptr<float>(), own_codes(), gpu_output(), cleared_gpu_counts()));
}

void QuantizedWeight::write_steps(const at::Tensor& steps) const {
  gpu::require_together({scale_, steps});
  gpu::check(
      gpu::kernels().steps(gpu::stream_of(scale_), rule_, scale_.numel(), scale_.const_data_ptr<float>(), steps.mutable_data_ptr<float>()));
}

QuantizedWeight::GradientSums QuantizedWeight::gradient_sums_on_gpu() {
  const at::NoGradGuard no_grad;
  gpu::require_together({master_, detail::dense_gradient(dequantized_)});
  const at::TensorOptions doubles = scale_.options().dtype(at::kDouble);
  const at::Tensor squares = at::empty({scale_.numel()}, doubles);
  const at::Tensor alphas = rule_.is_soft ? at::empty({scale_.numel()}, doubles) : at::Tensor();
  GradientSums result{{}, at::empty_like(scale_), {}};
  gpu::check(gpu::kernels().surrogate_sums(gpu::stream_of(master_), rule_, arrays<float>(), spec_.scale_gradient_factor(codes_.numel()),
                                           squares.mutable_data_ptr<double>(), result.scale.mutable_data_ptr<float>(),
                                           rule_.is_soft ? alphas.mutable_data_ptr<double>() : nullptr));
  result.master_squares = squares;
  if (rule_.is_soft) result.alpha = alphas.sum().to(at::kFloat).view({1});
  return result;
}

void QuantizedWeight::update_on_gpu(const kernels::AdamWRule& adamw, const at::Tensor& first, const at::Tensor& second,
                                    const at::Tensor& gradient_factor) {
  const at::NoGradGuard no_grad;
  gpu::require_together({master_, detail::dense_gradient(dequantized_), first, second, gradient_factor});
  gpu::check(gpu::kernels().update_quantized(gpu::stream_of(master_), rule_, adamw, gpu::factor_pointer(gradient_factor), arrays<float>(),
                                             {.first = first.mutable_data_ptr<float>(),
                                              .second = second.mutable_data_ptr<float>(),
                                              .scale = scale_.const_data_ptr<float>(),
                                              .codes = own_codes(),
                                              .dequantized = nullptr},
                                             gpu_output(), cleared_gpu_counts()));
}

kernels::QuantizeCounts QuantizedWeight::last_counts(std::span<const QuantizedWeight> weights) {
  kernels::QuantizeCounts sum;
  std::vector<at::Tensor> on_gpu;
  for (const QuantizedWeight& weight : weights) {
    if (weight.gpu_counts_.defined()) {
      on_gpu.push_back(weight.gpu_counts_);
    } else {
      sum += weight.counts_;
    }
  }
  if (on_gpu.empty()) return sum;
  const at::Tensor counts = at::stack(on_gpu).sum(0).cpu();
  sum += {counts.const_data_ptr<std::int64_t>()[0], counts.const_data_ptr<std::int64_t>()[1]};
  return sum;
}

at::Tensor QuantizedWeight::last_counts_tensor(std::span<const QuantizedWeight> weights) {
  if (!weights.empty() && weights.front().gpu_counts_.defined()) {
    std::vector<at::Tensor> on_gpu;
    for (const QuantizedWeight& weight : weights) on_gpu.push_back(weight.gpu_counts_);
    return at::stack(on_gpu).sum(0).to(at::kDouble);
  }
  const kernels::QuantizeCounts sum = last_counts(weights);
  return at::tensor({sum.changed, sum.clipped}, at::kDouble);
}

}  // namespace stableqat
