// Rows of activations and gradients rounded to float8 e4m3fn.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cuda/e4m3.h"
#include "kernels/cuda/element.h"
#include "stableqat/kernels/host_device.h"

namespace stableqat::kernels::cuda {

// codes [columns] and *scale of one row: code * scale is x * factor, rounded; the largest of them becomes 448. `factor` [columns] or
// null: 1. A row whose values are all below 1e-30 becomes zero. A row that is not finite has an infinite scale, so that its products are
// not finite.
template <class Team, class T>
STABLEQAT_HOST_DEVICE void round_row_to_e4m3(const Team& team, std::int64_t columns, const T* x, const float* factor, std::uint8_t* codes,
                                             float* scale) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto value = [&](std::int64_t j) { return factor != nullptr ? to_float(x[j]) * factor[j] : to_float(x[j]); };
  float largest = 0.0F;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) {
    const float size = std::fabs(value(j));
    if (!(size <= largest)) largest = size <= std::numeric_limits<float>::max() ? size : kInfinity;
  }
  const float top = team.max(largest);
  const float inverse = top >= 1e-30F && top < kInfinity ? kLargestE4m3 / top : 0.0F;
  for (std::int64_t j = team.rank(); j < columns; j += team.size()) codes[j] = float_to_e4m3(value(j) * inverse);
  if (team.rank() == 0) *scale = top >= 1e-30F ? top / kLargestE4m3 : 0.0F;
}

}  // namespace stableqat::kernels::cuda
