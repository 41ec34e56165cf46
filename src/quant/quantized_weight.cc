#include "stableqat/quant/quantized_weight.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "quant/gpu.h"
#include "quant/tensor_dispatch.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/ref/fake_quantize.h"
#include "stableqat/quant/scale_init.h"

namespace stableqat {
namespace {

void require_finite(const at::Tensor& tensor, const std::string& where) {
  if (at::isfinite(tensor).all().item<bool>()) return;
  throw DataError({where, "NaN or infinite values", "finite values", "the file is damaged or training diverged before it was written"});
}

// The caller's scale as a dense [N, G] tensor of the master's dtype.
at::Tensor checked_scale(const at::Tensor& scale, const at::Tensor& master, std::int64_t scales_per_row, const std::string& name) {
  const std::int64_t rows = master.size(0);
  if (scale.numel() != rows * scales_per_row || (scale.dim() > 0 && scale.size(0) != rows)) {
    throw DataError({name + " scale", std::to_string(scale.numel()) + " values",
                     std::to_string(rows) + " x " + std::to_string(scales_per_row), "bits or group_size differ from the checkpoint's"});
  }
  at::Tensor dense = scale.detach().to(master.options()).reshape({rows, scales_per_row}).contiguous();
  require_finite(dense, name + " scale");
  return dense;
}

constexpr std::int64_t kValuesPerTask = 32768;  // fewer are not worth waking another thread

// codes [segments, length], steps [segments] -> values [segments, length].
template <class T>
void dequantize(std::int64_t segments, std::int64_t length, const std::int8_t* codes, const T* steps, T* values) {
  at::parallel_for(0, segments, std::max<std::int64_t>(1, kValuesPerTask / length), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t segment = begin; segment < end; ++segment) {
      for (std::int64_t i = segment * length; i < (segment + 1) * length; ++i) values[i] = static_cast<T>(codes[i]) * steps[segment];
    }
  });
}

}  // namespace

QuantizedWeight::QuantizedWeight(const at::Tensor& master, QuantizerSpec spec, std::optional<at::Tensor> scale,
                                 std::optional<at::Tensor> alpha, std::string name)
    : spec_(std::move(spec)), name_(std::move(name)) {
  const at::NoGradGuard no_grad;
  spec_.validate();
  rule_ = spec_.rule();
  detail::require_matrix(master, name_);
  master_ = master.detach().contiguous();
  require_finite(master_, name_);
  own_rows_ = {0, master_.size(0)};
  const std::int64_t groups = spec_.scales_per_row(columns(), name_);
  scale_ = scale ? checked_scale(*scale, master_, groups, name_) : initial_scale(master_, spec_, name_);
  if (rule_.is_soft) {
    alpha_ = alpha ? alpha->detach().to(master_.options()).reshape({1}).contiguous() : at::full({1}, kInitialAlpha, master_.options());
    require_finite(alpha_, name_ + " alpha");
  }
  scale_in_use_ = scale_.clone();
  alpha_in_use_ = alpha_.defined() ? alpha_.clone() : at::Tensor();
  codes_ = at::zeros(master_.sizes(), master_.options().dtype(at::kChar));
  dequantized_ = at::empty_like(master_).set_requires_grad(true);
}

void QuantizedWeight::initialize_scale() {
  const at::NoGradGuard no_grad;
  scale_.copy_(initial_scale(master_, spec_, name_));
}

void QuantizedWeight::keep_dequantized(bool keep) {
  if (keep == has_dequantized()) return;
  const at::NoGradGuard no_grad;
  if (keep) {
    const at::Tensor steps = step();
    dequantized_.set_data((codes_.view({steps.numel(), -1}) * steps.view({-1, 1})).view(codes_.sizes()));
  } else {
    dequantized_.set_data(at::full({1, 1}, std::numeric_limits<double>::quiet_NaN(), master_.options()).expand(codes_.sizes()));
  }
}

void QuantizedWeight::keep_rows(RowRange rows) {
  const at::NoGradGuard no_grad;
  steps_ = step();
  own_rows_ = rows;
  for (at::Tensor* tensor : {&master_, &scale_, &scale_in_use_}) *tensor = tensor->narrow(0, rows.first, rows.count).clone();
}

void QuantizedWeight::set_rows(RowRange rows, const at::Tensor& codes, const at::Tensor& steps) {
  const at::NoGradGuard no_grad;
  codes_.narrow(0, rows.first, rows.count).copy_(codes);
  steps_.narrow(0, rows.first, rows.count).copy_(steps);
  if (!has_dequantized()) return;
  detail::with_float_type(master_, [&](auto type) {
    using T = decltype(type);
    const at::Tensor dense_codes = codes.contiguous();
    const at::Tensor dense_steps = steps.contiguous();
    dequantize<T>(dense_steps.numel(), segment_length(), dense_codes.const_data_ptr<std::int8_t>(), dense_steps.const_data_ptr<T>(),
                  dequantized_.mutable_data_ptr<T>() + rows.first * columns());
  });
}

std::int8_t* QuantizedWeight::own_codes() const { return codes_.mutable_data_ptr<std::int8_t>() + own_rows_.first * columns(); }

template <class T>
T* QuantizedWeight::dequantized_values() const {
  return has_dequantized() ? dequantized_.mutable_data_ptr<T>() + own_rows_.first * columns() : nullptr;
}

void QuantizedWeight::quantize() {
  if (gpu::is_on(master_)) {
    quantize_on_gpu();
  } else {
    detail::with_float_type(master_, [this](auto type) {
      using T = decltype(type);
      counts_ = kernels::update_kernels<T>().quantize(rule_, scale_.numel(), segment_length(), master_.const_data_ptr<T>(),
                                                      scale_.const_data_ptr<T>(), own_codes(), dequantized_values<T>());
    });
  }
  quantized();
}

void QuantizedWeight::quantized() {
  const at::NoGradGuard no_grad;
  scale_in_use_.copy_(scale_);
  if (rule_.is_soft) alpha_in_use_.copy_(alpha_);
  if (steps_.defined()) steps_.narrow(0, own_rows_.first, own_rows_.count).copy_(own_steps());
  if (!quantized_once_) counts_.changed = 0;
  quantized_once_ = true;
}

kernels::QuantizeCounts QuantizedWeight::last_counts() const { return last_counts({this, 1}); }

QuantizedWeight::Gradients QuantizedWeight::map_gradient() const {
  const at::NoGradGuard no_grad;
  if (gpu::is_on(master_)) return cpu_copy().map_gradient();
  Gradients gradients{at::zeros_like(master_), at::zeros_like(scale_), rule_.is_soft ? at::zeros_like(alpha_) : at::Tensor()};
  if (!dequantized_.grad().defined()) return gradients;
  const at::Tensor incoming = dequantized_.grad().narrow(0, own_rows_.first, own_rows_.count).contiguous();
  detail::with_float_type(master_, [&](auto type) {
    using T = decltype(type);
    kernels::surrogate_backward_ref<T>(rule_, scale_.numel(), segment_length(), master_.const_data_ptr<T>(),
                                       scale_in_use_.const_data_ptr<T>(), rule_.is_soft ? *alpha_in_use_.const_data_ptr<T>() : T(0),
                                       spec_.scale_gradient_factor(codes_.numel()), incoming.const_data_ptr<T>(),
                                       gradients.master.mutable_data_ptr<T>(), gradients.scale.mutable_data_ptr<T>(),
                                       rule_.is_soft ? gradients.alpha.mutable_data_ptr<T>() : nullptr);
  });
  return gradients;
}

template <class T>
kernels::QuantizedArrays<T> QuantizedWeight::arrays() const {
  const at::NoGradGuard no_grad;
  return {.rows = scale_.numel(),
          .columns = segment_length(),
          .weight = master_.mutable_data_ptr<T>(),
          .gradient = detail::dense_gradient(dequantized_).mutable_data_ptr<T>() + own_rows_.first * columns(),
          .scale = scale_in_use_.const_data_ptr<T>(),
          .alpha = rule_.is_soft ? *alpha_in_use_.const_data_ptr<T>() : T(0)};
}

QuantizedWeight::GradientSums QuantizedWeight::gradient_sums() {
  if (gpu::is_on(master_)) return gradient_sums_on_gpu();
  GradientSums result{{}, at::empty_like(scale_), {}};
  detail::with_float_type(master_, [&](auto type) {
    using T = decltype(type);
    const kernels::SurrogateSums sums =
        kernels::surrogate_sums<T>(rule_, arrays<T>(), spec_.scale_gradient_factor(codes_.numel()), result.scale.mutable_data_ptr<T>());
    result.master_squares = at::scalar_tensor(sums.squares, at::kDouble);
    if (rule_.is_soft) result.alpha = at::full_like(alpha_, sums.alpha);
  });
  return result;
}

void QuantizedWeight::update(const kernels::AdamWRule& adamw, const at::Tensor& first, const at::Tensor& second,
                             const at::Tensor& gradient_factor) {
  if (gpu::is_on(master_)) {
    update_on_gpu(adamw, first, second, gradient_factor);
    return quantized();
  }
  detail::with_float_type(master_, [&](auto type) {
    using T = decltype(type);
    const kernels::UpdateKernels<T>& table = kernels::update_kernels<T>();
    const auto move = [&](auto kernel, auto* first_moment, auto* second_moment) {
      counts_ = kernel(rule_, adamw, arrays<T>(),
                       {.first = first_moment,
                        .second = second_moment,
                        .scale = scale_.const_data_ptr<T>(),
                        .codes = own_codes(),
                        .dequantized = dequantized_values<T>()});
    };
    if (first.scalar_type() == at::kBFloat16) {
      move(table.update_quantized_bf16, detail::bf16_bits(first), detail::bf16_bits(second));
    } else {
      move(table.update_quantized, first.mutable_data_ptr<T>(), second.mutable_data_ptr<T>());
    }
  });
  quantized();
}

void QuantizedWeight::clear_gradient() {
  const at::NoGradGuard no_grad;
  detail::dense_gradient(dequantized_).zero_();
}

at::Tensor QuantizedWeight::step() const { return steps_.defined() ? steps_.clone() : own_steps(); }

at::Tensor QuantizedWeight::own_steps() const {
  const at::Tensor scale = scale_.cpu();
  at::Tensor steps = at::empty_like(scale);
  detail::with_float_type(scale, [&](auto type) {
    using T = decltype(type);
    kernels::resolve_scales<T>(rule_, scale.numel(), scale.const_data_ptr<T>(), steps.mutable_data_ptr<T>(), nullptr);
  });
  return steps.to(scale_.device());
}

at::Tensor QuantizedWeight::effective_scale() const {
  const at::Tensor scale = scale_.cpu();
  at::Tensor scales = at::empty_like(scale);
  detail::with_float_type(scale, [&](auto type) {
    using T = decltype(type);
    kernels::resolve_scales<T>(rule_, scale.numel(), scale.const_data_ptr<T>(), nullptr, scales.mutable_data_ptr<T>());
  });
  return scales;
}

}  // namespace stableqat
