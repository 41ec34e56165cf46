// Rows of RMSNorm, as in kernels/rms_norm.h; T is the type of activations.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/element.h"
#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels::cuda {

// sum and y [columns] and *inverse_rms of one row. With `delta` null, `sum` is neither read nor written.
template <class Team, class T>
STABLEQAT_HOST_DEVICE void rms_norm_forward_row(const Team& team, std::int64_t columns, const T* x, const T* delta, const float* w,
                                                float eps, T* sum, T* y, float* inverse_rms) {
  float squares = 0.0F;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    float value = to_float(x[j]);
    if (delta != nullptr) {
      sum[j] = from_float<T>(value + to_float(delta[j]));
      value = to_float(sum[j]);
    }
    squares += value * value;
  }
  const float inverse = 1.0F / std::sqrt(team.sum(squares) / static_cast<float>(columns) + eps);
  const T* normed = delta != nullptr ? sum : x;  // each member reads what it wrote itself
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) y[j] = from_float<T>(to_float(normed[j]) * inverse * w[j]);
  if (team.rank() == 0) *inverse_rms = inverse;
}

// dx [columns] of one row; its terms of the gradient of w are added to dw [columns], of which each member owns its elements.
template <class Team, class T>
STABLEQAT_HOST_DEVICE void rms_norm_backward_row(const Team& team, std::int64_t columns, const T* sum, const float* w, float inverse_rms,
                                                 const T* dy, const T* residual, T* dx, float* dw) {
  float dot = 0.0F;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) dot += to_float(dy[j]) * w[j] * to_float(sum[j]);
  const float pull = team.sum(dot) * inverse_rms * inverse_rms * inverse_rms / static_cast<float>(columns);
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    const float value = to_float(sum[j]);
    const float incoming = to_float(dy[j]);
    const float other = residual != nullptr ? to_float(residual[j]) : 0.0F;
    dw[j] += incoming * inverse_rms * value;
    dx[j] = from_float<T>(other + (inverse_rms * incoming * w[j] - pull * value));
  }
}

}  // namespace stableqat::kernels::cuda
