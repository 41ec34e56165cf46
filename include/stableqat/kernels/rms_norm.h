// Root-mean-square norm of rows, alone or with the addition of a residual before it, and its gradient. fp32.
//
// Arrays are dense and row-major; [rows, columns] unless said otherwise. OpenMP threads share rows; results do not depend on their number.
// Pointers must not be null except where said. Nothing throws. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
#pragma once

#include <cstdint>

#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

// Rows are summed up in this many blocks to the gradient of the weight.
inline constexpr std::int64_t kRmsNormBlocks = 32;

struct RmsNormKernels {
  // sum = x + delta; y = sum * inverse_rms * w, where inverse_rms [rows] = 1 / sqrt(mean(sum^2) + eps) over a row and w is [columns].
  // `delta` may be null: then sum is x, and the array `sum` is neither read nor written. `sum` may be x or delta; y no input.
  void (*forward)(std::int64_t rows, std::int64_t columns, const float* x, const float* delta, const float* w, float eps, float* sum,
                  float* y, float* inverse_rms);

  // Gradients of `sum` and w from dy, the gradient of y. `residual` is the gradient that reaches sum by other ways (may be null: none):
  // dx = residual + d(y)/d(sum)^T dy, which is the gradient of both x and delta. dx may be residual or dy.
  // dw [columns] is overwritten; `workspace` is scratch memory [kRmsNormBlocks, columns].
  void (*backward)(std::int64_t rows, std::int64_t columns, const float* sum, const float* w, const float* inverse_rms, const float* dy,
                   const float* residual, float* dx, float* dw, float* workspace);
};

// Throws what active_isa() throws. Thread-safe, as the kernels are.
const RmsNormKernels& rms_norm_kernels(Isa isa = active_isa());

}  // namespace stableqat::kernels
