// The gate of Llama's feed-forward block, y = silu(gate) * up with silu(g) = g / (1 + exp(-g)), and its gradient. fp32.
//
// Arrays are dense, `count` elements each; outputs may be inputs of the same call. OpenMP threads share them. Nothing throws.
// silu(g) is within 4 + |g| units in the last place; below -87.3, where it is smaller than 1.1e-36, it is zero. Source: Shazeer, "GLU
// Variants Improve Transformer" (2020).
#pragma once

#include <cstdint>

#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

struct SwigluKernels {
  void (*forward)(std::int64_t count, const float* gate, const float* up, float* y);

  // dgate = dy * up * silu'(gate), dup = dy * silu(gate): nothing but gate and up need be kept from forward.
  void (*backward)(std::int64_t count, const float* gate, const float* up, const float* dy, float* dgate, float* dup);
};

// Throws what active_isa() throws. Thread-safe, as the kernels are.
const SwigluKernels& swiglu_kernels(Isa isa = active_isa());

}  // namespace stableqat::kernels
