#include "stableqat/kernels/scale_search.h"

#include <algorithm>
#include <cmath>

#include "kernels/lane_sum.h"
#include "kernels/parallel.h"
#include "stableqat/kernels/quant_math.h"

namespace stableqat::kernels {
namespace {

// sum (w - w_q)^2 of one row. Summed in T, which is fast and exact enough to compare candidates.
template <class T, Rounding kRounding>
T squared_error(QuantElement<T, kRounding> element, T steps_per_scale, std::int64_t columns, const T* weight, T scale) {
  const T inverse = T(1) / scale;
  const T step = scale / steps_per_scale;
  return lane_sum<T>(columns, [&](std::int64_t j) {
    const T difference = weight[j] - element.code(weight[j] * inverse) * step;
    return difference * difference;
  });
}

// The scale of smallest error for the codes that `scale` gives; 0 when all codes are 0.
template <class T, Rounding kRounding>
T least_squares_scale(QuantElement<T, kRounding> element, T steps_per_scale, std::int64_t columns, const T* weight, T scale) {
  const T inverse = T(1) / scale;
  const auto code = [&](std::int64_t j) { return element.code(weight[j] * inverse); };
  const double weight_code = lane_sum<double>(columns, [&](std::int64_t j) { return weight[j] * code(j); });
  const double code_squared = lane_sum<double>(columns, [&](std::int64_t j) { return code(j) * code(j); });
  return code_squared > 0 ? static_cast<T>(weight_code / code_squared) * steps_per_scale : T(0);
}

template <class T, Rounding kRounding>
T best_scale(QuantElement<T, kRounding> element, T steps_per_scale, std::int64_t columns, const T* weight, int candidates, T largest) {
  constexpr int kRefinements = 8;
  const auto error_of = [&](T scale) { return squared_error(element, steps_per_scale, columns, weight, scale); };
  T best = largest;
  T best_error = error_of(largest);
  for (int k = 1; k < candidates; ++k) {
    const T scale = largest * static_cast<T>(k) / static_cast<T>(candidates);
    if (const T error = error_of(scale); error < best_error) {
      best = scale;
      best_error = error;
    }
  }
  for (int round = 0; round < kRefinements; ++round) {
    const T scale = least_squares_scale(element, steps_per_scale, columns, weight, best);
    if (!(scale > T(kMinScale))) break;
    const T error = error_of(scale);
    if (!(error < best_error)) break;
    best = scale;
    best_error = error;
  }
  return best;
}

}  // namespace

template <class T>
void row_magnitudes(std::int64_t rows, std::int64_t columns, const T* weight, T* max_abs, T* mean_abs) {
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
  for (std::int64_t row = 0; row < rows; ++row) {
    const T* begin = weight + row * columns;
    const double sum = lane_sum<double>(columns, [&](std::int64_t j) { return std::abs(begin[j]); });
    T largest = 0;
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = 0; j < columns; ++j) largest = std::max(largest, std::abs(begin[j]));
    mean_abs[row] = static_cast<T>(sum / static_cast<double>(columns));
    max_abs[row] = std::isfinite(sum) ? largest : mean_abs[row];
  }
}

template <class T>
void search_scale(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, int candidates, T* scale) {
  const T steps_per_scale = static_cast<T>(rule.steps_per_scale);
  with_rounding(rule, [&]<Rounding kRounding>() {
    const QuantElement<T, kRounding> element(rule);
#pragma omp parallel for schedule(static) if (worth_sharing(rows, columns))
    for (std::int64_t row = 0; row < rows; ++row) {
      if (!(scale[row] > T(kMinScale))) continue;
      scale[row] = best_scale(element, steps_per_scale, columns, weight + row * columns, candidates, scale[row]);
    }
  });
}

#define STABLEQAT_INSTANTIATE(T)                                                 \
  template void row_magnitudes<T>(std::int64_t, std::int64_t, const T*, T*, T*); \
  template void search_scale<T>(const QuantRule&, std::int64_t, std::int64_t, const T*, int, T*);
STABLEQAT_INSTANTIATE(float)
STABLEQAT_INSTANTIATE(double)
#undef STABLEQAT_INSTANTIATE

}  // namespace stableqat::kernels
