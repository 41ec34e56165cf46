// Rotary position embedding on the layout in which projections leave their heads, [B, T, H, D]: no transposed copy. fp32.
// Source: Su et al., "RoFormer" (2021); the halves of a head are rotated against each other (Hugging Face order).
#pragma once

#include <cstdint>

#include "stableqat/kernels/head_strides.h"
#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

struct RopeShape {
  std::int64_t batch;      // B
  std::int64_t tokens;     // T
  std::int64_t heads;      // H
  std::int64_t head_size;  // D, even
};

struct RopeKernels {
  // With a, b the halves of a head at token t and c, s the rows t of `cos` and `sin`, both dense [T, D/2]:
  //   y = (a c - b s, b c + a s).
  // y may be x (in place); otherwise they may not overlap. OpenMP threads share the tokens. Nothing throws.
  void (*forward)(const RopeShape& shape, const float* cos, const float* sin, HeadView<const float> x, HeadView<float> y);

  // The same with -sin: the gradient of x from that of y, as a rotation is orthogonal.
  void (*backward)(const RopeShape& shape, const float* cos, const float* sin, HeadView<const float> dy, HeadView<float> dx);
};

// Throws what active_isa() throws. Thread-safe, as the kernels are.
const RopeKernels& rope_kernels(Isa isa = active_isa());

}  // namespace stableqat::kernels
