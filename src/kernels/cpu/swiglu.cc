#include "stableqat/kernels/swiglu.h"

#include "kernels/cpu/exp2.h"
#include "kernels/parallel.h"

namespace stableqat::kernels::inline STABLEQAT_ISA {

namespace {

// 1 / (1 + exp(-g)); the exponent is never positive, so that nothing overflows.
inline float sigmoid(float g) {
  const float e = exp2_nonpositive(kLog2E * (g < 0.0F ? g : -g));
  const float inverse = 1.0F / (1.0F + e);
  return g < 0.0F ? e * inverse : inverse;
}

void forward(std::int64_t count, const float* gate, const float* up, float* y) {
#pragma omp parallel for simd schedule(static) if (worth_sharing(count, 1))
  for (std::int64_t i = 0; i < count; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

void backward(std::int64_t count, const float* gate, const float* up, const float* dy, float* dgate, float* dup) {
#pragma omp parallel for simd schedule(static) if (worth_sharing(count, 1))
  for (std::int64_t i = 0; i < count; ++i) {
    const float s = sigmoid(gate[i]);
    const float silu = gate[i] * s;
    const float upstream = dy[i];
    const float slope = s + silu * (1.0F - s);
    dgate[i] = upstream * up[i] * slope;
    dup[i] = upstream * silu;
  }
}

}  // namespace

extern const SwigluKernels swiglu_table = {forward, backward};

}  // namespace stableqat::kernels::inline STABLEQAT_ISA
