// Rows of the optimizer step of quantization-aware training, as in kernels/update.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/element.h"
#include "stableqat/kernels/adamw_math.h"
#include "stableqat/kernels/host_device.h"
#include "stableqat/kernels/quant_math.h"

namespace stableqat::kernels::cuda {

// Where quantization writes. T is the type that products are computed in.
template <class T>
struct QuantizedRow {
  std::int8_t* codes;  // the previous ones on entry
  T* dequantized;      // or null
};

// Quantizes element j of a row; adds to the counts.
template <class T, Rounding kRounding>
STABLEQAT_HOST_DEVICE void quantize_element(const QuantElement<float, kRounding>& element, float weight, float divisor, float step,
                                            std::int64_t j, const QuantizedRow<T>& out, QuantizeCounts& counts) {
  const float x = weight / divisor;
  const float code = element.code(x);
  const auto stored = static_cast<std::int8_t>(code);
  counts.changed += stored != out.codes[j] ? 1 : 0;
  counts.clipped += element.inside(x) ? 0 : 1;
  out.codes[j] = stored;
  if (out.dequantized != nullptr) out.dequantized[j] = from_float<T>(code * step);
}

// Returns this member's counts.
template <class Team, class T, Rounding kRounding>
STABLEQAT_HOST_DEVICE QuantizeCounts quantize_row(const Team& team, const QuantElement<float, kRounding>& element, std::int64_t columns,
                                                  const float* weight, float scale, const QuantizedRow<T>& out) {
  const float divisor = element.effective_scale(scale);
  const float step = element.step(scale);
  QuantizeCounts counts;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) quantize_element(element, weight[j], divisor, step, j, out, counts);
  return counts;
}

struct RowSums {
  double squares;
  double scale;
  double alpha;
};

// The sums of pass one, the same for every member.
template <class Team, class Surrogate>
STABLEQAT_HOST_DEVICE RowSums surrogate_sums_of_row(const Team& team, const Surrogate& surrogate, std::int64_t columns, const float* weight,
                                                    const float* gradient, float scale) {
  const float divisor = surrogate.element().effective_scale(scale);
  RowSums sums{0.0, 0.0, 0.0};
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    const ElementGradients<float> mapped = surrogate.gradients(weight[j] / divisor, gradient[j]);
    sums.squares += static_cast<double>(mapped.weight) * static_cast<double>(mapped.weight);
    sums.scale += static_cast<double>(mapped.scale);
    if constexpr (Surrogate::kHasAlpha) sums.alpha += static_cast<double>(mapped.alpha);
  }
  return {team.sum(sums.squares), team.sum(sums.scale), Surrogate::kHasAlpha ? static_cast<double>(divisor) * team.sum(sums.alpha) : 0.0};
}

// Takes the step's factor from device memory, if it is there. False: it is not finite, and the step is left out.
STABLEQAT_HOST_DEVICE inline bool take_factor(const double* factor, AdamWElement<float>& adamw) {
  if (factor == nullptr) return true;
  adamw.set_gradient_factor(*factor);
  return *factor - *factor == 0.0;
}

// What pass two changes in a row.
struct MovedRow {
  float* weight;
  float* gradient;
  float* first;
  float* second;
};

// Pass two: surrogate, AdamW, quantization with the new scale, gradient cleared. Returns this member's counts.
template <class Team, class T, class Surrogate>
STABLEQAT_HOST_DEVICE QuantizeCounts update_row(const Team& team, const Surrogate& surrogate, const AdamWElement<float>& adamw,
                                                std::int64_t columns, const MovedRow& row, float old_scale, float new_scale,
                                                const QuantizedRow<T>& out) {
  const auto& element = surrogate.element();
  const float old_divisor = element.effective_scale(old_scale);
  const float divisor = element.effective_scale(new_scale);
  const float step = element.step(new_scale);
  QuantizeCounts counts;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    const float mapped = surrogate.gradients(row.weight[j] / old_divisor, row.gradient[j]).weight;
    const float weight = adamw.step(row.weight[j], mapped, row.first[j], row.second[j]);
    row.weight[j] = weight;
    row.gradient[j] = 0.0F;
    quantize_element(element, weight, divisor, step, j, out, counts);
  }
  return counts;
}

}  // namespace stableqat::kernels::cuda
