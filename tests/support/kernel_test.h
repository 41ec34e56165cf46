// What tests of kernels share: reproducible arrays and the instruction sets of this machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "stableqat/kernels/isa.h"

namespace stableqat::testing {

// Half the distance of 1 to the next float: the largest relative error of one rounding.
inline constexpr double kUnit = 0x1p-24;

inline std::vector<float> normal_values(std::int64_t count, unsigned seed, float deviation = 1.0F) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

inline std::vector<kernels::Isa> supported_isas() {
  std::vector<kernels::Isa> isas;
  for (const kernels::Isa isa : kernels::kAllIsas) {
    if (isa <= kernels::best_isa()) isas.push_back(isa);
  }
  return isas;
}

}  // namespace stableqat::testing
