// Tensors as the kernels see them.
#pragma once

#include <ATen/core/Tensor.h>

#include "stableqat/kernels/head_strides.h"

namespace stableqat {

// [..., C] -> [R, C]
inline at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// x [B, T, H, D]. Kernels on heads take any strides but those of the last dimension.
inline at::Tensor with_dense_heads(const at::Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }
inline kernels::HeadStrides strides_of(const at::Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2)}; }
inline kernels::HeadView<const float> heads_of(const at::Tensor& x) { return {x.const_data_ptr<float>(), strides_of(x)}; }
inline kernels::HeadView<float> writable_heads_of(const at::Tensor& x) { return {x.mutable_data_ptr<float>(), strides_of(x)}; }

}  // namespace stableqat
