// Which tensors the CPU kernels take; the others run ATen's operations.
#pragma once

#include <ATen/core/Tensor.h>

namespace stableqat {

inline bool has_kernels(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

}  // namespace stableqat
