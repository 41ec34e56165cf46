#include "stableqat/kernels/scale_search.h"

#include <cmath>

#include "stableqat/kernels/quant_math.h"

namespace stableqat::kernels {
namespace {

struct Fit {
  double error = 0;         // sum (w - w_q)^2
  double weight_code = 0;   // sum w code
  double code_squared = 0;  // sum code^2
};

// Sums of one row at one scale. float accumulators within blocks keep the loop vectorized, double ones across blocks keep it exact enough.
template <class T>
Fit fit_row(const QuantElement<T>& element, T steps_per_scale, std::int64_t columns, const T* weight, T scale) {
  constexpr std::int64_t kBlock = 512;
  const T inverse = T(1) / scale;
  const T step = scale / steps_per_scale;
  Fit fit;
  for (std::int64_t begin = 0; begin < columns; begin += kBlock) {
    const std::int64_t end = begin + kBlock < columns ? begin + kBlock : columns;
    T error = 0;
    T weight_code = 0;
    T code_squared = 0;
#pragma omp simd reduction(+ : error, weight_code, code_squared)
    for (std::int64_t j = begin; j < end; ++j) {
      const T code = element.code(weight[j] * inverse);
      const T difference = weight[j] - code * step;
      error += difference * difference;
      weight_code += weight[j] * code;
      code_squared += code * code;
    }
    fit.error += static_cast<double>(error);
    fit.weight_code += static_cast<double>(weight_code);
    fit.code_squared += static_cast<double>(code_squared);
  }
  return fit;
}

template <class T>
T best_scale(const QuantElement<T>& element, T steps_per_scale, std::int64_t columns, const T* weight, int candidates, T largest) {
  T best = largest;
  Fit best_fit = fit_row(element, steps_per_scale, columns, weight, best);
  for (int k = 1; k < candidates; ++k) {
    const T scale = largest * static_cast<T>(k) / static_cast<T>(candidates);
    const Fit fit = fit_row(element, steps_per_scale, columns, weight, scale);
    if (fit.error < best_fit.error) {
      best = scale;
      best_fit = fit;
    }
  }
  for (int round = 0; round < 8 && best_fit.code_squared > 0; ++round) {
    const T scale = steps_per_scale * static_cast<T>(best_fit.weight_code / best_fit.code_squared);
    if (!(scale > T(kMinScale))) break;
    const Fit fit = fit_row(element, steps_per_scale, columns, weight, scale);
    if (!(fit.error < best_fit.error)) break;
    best = scale;
    best_fit = fit;
  }
  return best;
}

}  // namespace

template <class T>
void row_magnitudes(std::int64_t rows, std::int64_t columns, const T* weight, T* max_abs, T* mean_abs) {
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    const T* begin = weight + row * columns;
    T largest = 0;
    double sum = 0;
#pragma omp simd reduction(max : largest) reduction(+ : sum)
    for (std::int64_t j = 0; j < columns; ++j) {
      const T magnitude = std::abs(begin[j]);
      largest = magnitude > largest ? magnitude : largest;
      sum += static_cast<double>(magnitude);
    }
    mean_abs[row] = static_cast<T>(sum / static_cast<double>(columns));
    max_abs[row] = std::isfinite(sum) ? largest : mean_abs[row];
  }
}

template <class T>
void search_scale(const QuantRule& rule, std::int64_t rows, std::int64_t columns, const T* weight, int candidates, T* scale) {
  const QuantElement<T> element(rule);
  const T steps_per_scale = static_cast<T>(rule.steps_per_scale);
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    if (scale[row] > T(kMinScale)) {
      scale[row] = best_scale(element, steps_per_scale, columns, weight + row * columns, candidates, scale[row]);
    }
  }
}

#define STABLEQAT_INSTANTIATE(T)                                                 \
  template void row_magnitudes<T>(std::int64_t, std::int64_t, const T*, T*, T*); \
  template void search_scale<T>(const QuantRule&, std::int64_t, std::int64_t, const T*, int, T*);
STABLEQAT_INSTANTIATE(float)
STABLEQAT_INSTANTIATE(double)
#undef STABLEQAT_INSTANTIATE

}  // namespace stableqat::kernels
