#include "stableqat/kernels/ref/fake_quantize.h"

#include <numeric>
#include <vector>

#include "kernels/lane_sum.h"
#include "kernels/parallel.h"
#include "stableqat/kernels/quant_math.h"

namespace stableqat::kernels {
namespace {

template <class T, Rounding kRounding>
QuantizeCounts quantize_row(QuantElement<T, kRounding> element, std::int64_t columns, const T* weight, T scale, std::int8_t* codes,
                            T* dequantized) {
  const T step = element.step(scale);
  const T divisor = element.effective_scale(scale);
  std::int64_t changed = 0;
  std::int64_t clipped = 0;
#pragma omp simd reduction(+ : changed, clipped)
  for (std::int64_t j = 0; j < columns; ++j) {
    const T x = weight[j] / divisor;
    const T code = element.code(x);
    const auto stored = static_cast<std::int8_t>(code);
    changed += stored != codes[j];
    clipped += !element.inside(x);
    codes[j] = stored;
    dequantized[j] = code * step;
  }
  return {changed, clipped};
}

struct RowSums {
  double scale = 0;
  double alpha = 0;
};

// Writes the weight gradient last: it may overwrite the incoming gradient.
template <class T, class Surrogate>
RowSums backward_row(Surrogate surrogate, std::int64_t columns, const T* weight, T scale, const T* gradient, T* weight_gradient) {
  const T divisor = surrogate.element().effective_scale(scale);
  const auto map = [&](std::int64_t j) { return surrogate.gradients(weight[j] / divisor, gradient[j]); };
  RowSums sums;
  if constexpr (Surrogate::kHasAlpha)
    sums.alpha = static_cast<double>(divisor) * run_sum<T>(columns, [&](std::int64_t j) { return map(j).alpha; });
  sums.scale = run_sum<T>(columns, [&](std::int64_t j) {
    const ElementGradients<T> mapped = map(j);
    weight_gradient[j] = mapped.weight;
    return mapped.scale;
  });
  return sums;
}

}  // namespace

template <class T>
QuantizeCounts fake_quantize_ref(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, const T* scale,
                                 std::int8_t* codes, T* dequantized) {
  std::int64_t changed = 0;
  std::int64_t clipped = 0;
  with_rounding(rule, [&]<Rounding kRounding>() {
    const QuantElement<T, kRounding> element(rule);
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns)) reduction(+ : changed, clipped)
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t begin = row * columns;
      const QuantizeCounts counts = quantize_row(element, columns, weight + begin, scale[row], codes + begin, dequantized + begin);
      changed += counts.changed;
      clipped += counts.clipped;
    }
  });
  return {changed, clipped};
}

template <class T>
void surrogate_backward_ref(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, const T* scale, T alpha,
                            double scale_factor, const T* dequantized_gradient, T* weight_gradient, T* scale_gradient, T* alpha_gradient) {
  std::vector<double> alpha_of_row(static_cast<std::size_t>(rows));  // summed in row order below, whatever the number of threads
  with_surrogate(rule, alpha, [&](auto surrogate) {
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t begin = row * columns;
      const RowSums sums =
          backward_row(surrogate, columns, weight + begin, scale[row], dequantized_gradient + begin, weight_gradient + begin);
      scale_gradient[row] = static_cast<T>(scale_factor * sums.scale);
      alpha_of_row[static_cast<std::size_t>(row)] = sums.alpha;
    }
  });
  if (rule.is_soft) *alpha_gradient = static_cast<T>(std::accumulate(alpha_of_row.begin(), alpha_of_row.end(), 0.0));
}

template <class T>
void resolve_scales(const QuantRule& rule, std::int64_t count, const T* scale, T* steps, T* effective) {
  const QuantElement<T, Rounding::kAffine> element(rule);
  for (std::int64_t i = 0; i < count; ++i) {
    const T raw = scale[i];
    if (steps != nullptr) steps[i] = element.step(raw);
    if (effective != nullptr) effective[i] = element.effective_scale(raw);
  }
}

#define STABLEQAT_INSTANTIATE(T)                                                                                                         \
  template QuantizeCounts fake_quantize_ref<T>(const QuantRule&, std::int64_t, std::int64_t, const T*, const T*, std::int8_t*, T*);      \
  template void surrogate_backward_ref<T>(const QuantRule&, std::int64_t, std::int64_t, const T*, const T*, T, double, const T*, T*, T*, \
                                          T*);                                                                                           \
  template void resolve_scales<T>(const QuantRule&, std::int64_t, const T*, T*, T*);
STABLEQAT_INSTANTIATE(float)
STABLEQAT_INSTANTIATE(double)
#undef STABLEQAT_INSTANTIATE

}  // namespace stableqat::kernels
