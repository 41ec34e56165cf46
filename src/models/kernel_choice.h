// Which tensors our kernels take; the others run ATen's operations.
#pragma once

#include <ATen/core/Tensor.h>

#include "quant/gpu.h"

namespace stableqat {

inline bool has_cpu_kernels(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }
inline bool has_kernels(const at::Tensor& x) { return has_cpu_kernels(x) || gpu::takes(x); }

}  // namespace stableqat
