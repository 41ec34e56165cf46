// Linear layers: y = x w^T + b, by products in the weight's own type, in a narrower compute type, or with a quantized weight's codes.
// Letters: N out features, M in features, G steps (scales) per row.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <memory>
#include <vector>

namespace stableqat {

class PackedMatrix;

// How products take quantized weights.
enum class CodeProducts {
  kOff,      // as w_q, dequantized in memory: any type, any device
  kFloat,    // fp32 on the CPU, from codes that are dequantized on the way: the same results
  kInteger,  // rows of activations rounded to integers (compute int8x2), where a row of the weight has one step; else as kFloat
};

// One matrix product. `weight` is the leaf whose .grad accumulates; a quantized layer puts w_q here.
struct Linear {
  at::Tensor weight;                           // [N, M]; its values are not read when codes are there
  at::Tensor bias;                             // [N] or undefined
  at::Tensor compute;                          // copy of weight in the compute type, or undefined when that is the weight's own type
  at::Tensor codes;                            // [N, M] int8: w_q = codes * step; undefined unless products are taken from them
  at::Tensor step;                             // [N, G] float32
  std::shared_ptr<const PackedMatrix> packed;  // w_q, if products of a few rows without gradient shall be taken from it
  bool integer = false;                        // CodeProducts::kInteger; takes G = 1
};

// y_i = x w_i^T + b_i for layers with the same input. x [..., M] -> one [..., N_i] per layer.
//
// The gradient of a leaf weight is added to its .grad inside backward (one product that accumulates), not handed to the autograd engine,
// which would need a temporary of the weight's size for every micro-batch. The layers' input gradients are summed in place, in the order
// given.
//
// Integer products: x is rounded to 16 bits a value (two int8 digits) relative to the largest of its row, and so is
// the gradient of y times `step`; the sums are exact. The weight gradient is taken from the rounded x, in bf16 where that is an
// instruction, else in fp32. x itself is not kept. Not thread-safe for layers whose gradient is taken. Throws EnvironmentError when memory
// runs out.
std::vector<at::Tensor> linear(const at::Tensor& x, std::initializer_list<const Linear*> layers);
at::Tensor linear(const at::Tensor& x, const Linear& layer);

}  // namespace stableqat
