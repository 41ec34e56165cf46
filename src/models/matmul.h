// Products of two matrices by our kernels where they apply (float32 on the CPU, more than a few rows), else by ATen.
// Letters: R rows of activations, N out features, M in features, G steps per row of a weight. All tensors are matrices.
#pragma once

#include <ATen/core/Tensor.h>

namespace stableqat::matmul {

// x w^T. x [R, M], w [N, M] -> [R, N], new or written to y
at::Tensor forward(const at::Tensor& x, const at::Tensor& w);
void forward(const at::Tensor& x, const at::Tensor& w, at::Tensor& y);

// dx (+)= dy w; an undefined dx is made. dy [R, N], w [N, M], dx [R, M]. `rounded` allows float32 products to round dy and w where that is
// faster (kernels::GradientArithmetic).
void add_input_gradient(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& w, bool rounded = false);

// The same products with a quantized weight w = codes * step, codes [N, M] int8, step [N, G]; x and dy float32 without gaps.
at::Tensor forward(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& step);
void add_input_gradient(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& codes, const at::Tensor& step);

// gradient (+)= dy^T x; an undefined gradient is made, in `type`. dy [R, N], x [R, M], gradient [N, M]. `rounded` as above.
void add_weight_gradient(at::Tensor& gradient, at::ScalarType type, const at::Tensor& dy, const at::Tensor& x, bool rounded = false);

// Throws EnvironmentError unless a kernel found memory for its scratch.
void require_memory(bool found);

}  // namespace stableqat::matmul
