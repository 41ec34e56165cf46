// Sums whose order of additions is fixed by the source, not by the vector width: the same bits on every instruction set.
#pragma once

#include <cstdint>

#include "stableqat/base/isa_namespace.h"

namespace stableqat::kernels {
inline namespace STABLEQAT_ISA {

inline constexpr int kLanes = 16;  // one AVX-512 register of floats

// sum of term(0) .. term(count - 1) in type Sum: term j goes to lane j mod 16, then lanes are added pairwise. Inlined and vectorized.
template <class Sum, class Term>
Sum lane_sum(std::int64_t count, Term&& term) {
  Sum lanes[kLanes] = {};
  const std::int64_t whole = count - count % kLanes;
  for (std::int64_t block = 0; block < whole; block += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<Sum>(term(block + lane));
  }
  for (std::int64_t j = whole; j < count; ++j) lanes[j - whole] += static_cast<Sum>(term(j));
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

}  // namespace STABLEQAT_ISA
}  // namespace stableqat::kernels
