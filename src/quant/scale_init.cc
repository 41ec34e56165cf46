#include "stableqat/quant/scale_init.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "quant/tensor_dispatch.h"
#include "stableqat/base/error.h"
#include "stableqat/kernels/quant_math.h"
#include "stableqat/kernels/scale_search.h"

namespace stableqat {
namespace {

constexpr int kCandidates = 96;

// One formula per start value; see the header. For kMse: the largest candidate.
double start_value(const QuantizerSpec& spec, const kernels::QuantRule& rule, double max_abs, double mean_abs) {
  switch (spec.scale_init) {
    case ScaleInit::kLsq:
      return rule.levels * 2 * mean_abs / std::sqrt(q_max(spec.bits));
    case ScaleInit::kAbsMax:
      if (rule.is_sign) return mean_abs;
      break;
    case ScaleInit::kMse:
      break;
  }
  const bool by_q_max = spec.kind != QuantizerKind::kSeq && spec.bits >= 3;
  return by_q_max ? max_abs / q_max(spec.bits) : max_abs;
}

}  // namespace

at::Tensor initial_scale(const at::Tensor& weight, const QuantizerSpec& spec, std::string_view name) {
  const std::string where(name);
  spec.validate();
  detail::require_matrix(weight, where);
  const at::Tensor dense = weight.detach().contiguous();
  const kernels::QuantRule rule = spec.rule();
  const std::int64_t groups = spec.scales_per_row(dense.size(1), where);
  at::Tensor scale = at::empty({dense.size(0), groups}, dense.options());
  const at::Tensor mean = at::empty_like(scale);
  detail::with_float_type(dense, [&](auto type) {
    using T = decltype(type);
    const std::int64_t segments = scale.numel();
    const std::int64_t columns = segments > 0 ? dense.numel() / segments : 0;
    const T* values = dense.const_data_ptr<T>();
    T* scales = scale.mutable_data_ptr<T>();
    T* means = mean.mutable_data_ptr<T>();
    kernels::row_magnitudes<T>(segments, columns, values, scales, means);
    for (std::int64_t i = 0; i < segments; ++i) {
      if (!std::isfinite(scales[i])) {
        throw DataError({where, "NaN or infinite values in row " + std::to_string(i / groups), "finite values", "the file is damaged"});
      }
      const double start = start_value(spec, rule, static_cast<double>(scales[i]), static_cast<double>(means[i]));
      scales[i] = static_cast<T>(std::max(start, kernels::kMinScale));
    }
    if (spec.scale_init == ScaleInit::kMse) kernels::search_scale<T>(rule, segments, columns, values, kCandidates, scales);
  });
  return scale;
}

}  // namespace stableqat
