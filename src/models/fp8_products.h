// Products of bfloat16 rows with a quantized weight's codes in float8 e4m3fn on a GPU, by LibTorch's row-wise scaled product.
// Letters: R rows of activations, N out features, M in features. Multiples of 16: N and M.
#pragma once

#include <ATen/core/Tensor.h>

#include "stableqat/models/linear.h"

namespace stableqat::fp8 {

// code * scale is x, rounded to e4m3 with the largest value of a row at its top.
struct Rows {
  at::Tensor codes;  // [R, M] float8_e4m3fn
  at::Tensor scale;  // [R, 1] float32
};

// x [R, M] bfloat16 without gaps; times factor ([M] elements, float32) if that is defined.
Rows rounded(const at::Tensor& x, const at::Tensor& factor = {});

// x w^T: [R, N] bfloat16.
at::Tensor forward(const Rows& x, const at::Tensor& codes, const at::Tensor& step);

// dx (+)= dy w; an undefined dx is made. dy [R, N] bfloat16, times the steps rounded to e4m3 in its turn; transposed [M, N]; dx [R, M].
void add_input_gradient(at::Tensor& dx, const at::Tensor& dy, const at::Tensor& transposed, const at::Tensor& step);

// Throws EnvironmentError unless `device` has such products.
void require_products(at::Device device);

}  // namespace stableqat::fp8
