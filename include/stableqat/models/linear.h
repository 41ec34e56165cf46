// Linear layers: y = x w^T + b, by products in the weight's own type, in a narrower compute type, or with a quantized weight's codes.
// Letters: N out features, M in features, G steps (scales) per row.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <memory>
#include <vector>

#include "stableqat/models/activation_rounding.h"

namespace stableqat {

class PackedMatrix;

// How products take quantized weights.
enum class CodeProducts {
  kOff,    // as w_q, dequantized in memory: any type, any device
  kFloat,  // fp32 on the CPU, from codes that are dequantized on the way: the same results
  // Rows of activations, and of gradients that come back, rounded to integers of one or two int8 digits, where a row of the weight has one
  // step; else as kFloat.
  kInt8x1,
  kInt8x2,
  // On a GPU: rows rounded to float8 e4m3fn, with a scale each, times the codes, which are exact there. bfloat16 computation, one step for
  // a row of the weight, codes up to 16, N and M multiples of 16. Gradients of weights are of bfloat16, as those of kOff.
  kFp8,
};
constexpr int digits_of(CodeProducts products) noexcept {
  return products == CodeProducts::kInt8x1 ? 1 : products == CodeProducts::kInt8x2 ? 2 : 0;
}

// One matrix product. `weight` is the leaf whose .grad accumulates; a quantized layer puts w_q here.
struct Linear {
  at::Tensor weight;                           // [N, M]; its values are not read when codes are there
  at::Tensor bias;                             // [N] or undefined
  at::Tensor compute;                          // copy of weight in the compute type, or undefined when that is the weight's own type
  at::Tensor codes;                            // [N, M] int8: w_q = codes * step; undefined unless products are taken from them
  at::Tensor step;                             // [N, G] float32
  at::Tensor fp8_codes;                        // [N, M] float8_e4m3fn: the codes; undefined unless products are kFp8
  at::Tensor fp8_transposed;                   // [M, N], the same
  std::shared_ptr<const PackedMatrix> packed;  // w_q, if products of a few rows without gradient shall be taken from it
  int digits = 0;                              // digits_of() the products, for G = 1; the same for quantized layers with one input
  // Of the input, before products without gradient; those are not taken from `packed` then, which rounds in its own way.
  ActivationRounding input_rounding = ActivationRounding::kNone;
};

// The input of layers with what backward needs to have it again.
struct LayerInput {
  // Kept as it was multiplied: plain, rounded or both.
  LayerInput(const at::Tensor& x) : value(x) {}  // implicit: the ordinary case
  // Kept by the operation that made it anyway: costs no memory as it is, and is rounded once more.
  static LayerInput kept_elsewhere(const at::Tensor& x) { return LayerInput(x, Source::kKeptElsewhere, {}, {}, 0.0); }
  // Not kept, but made again from what those operations keep: rms_norm(sum, w, eps), swiglu(gate, up).
  static LayerInput of_rms_norm(const at::Tensor& normed, const at::Tensor& sum, const at::Tensor& w, double eps) {
    return LayerInput(normed, Source::kRmsNorm, sum, w, eps);
  }
  static LayerInput of_swiglu(const at::Tensor& product, const at::Tensor& gate, const at::Tensor& up) {
    return LayerInput(product, Source::kSwiglu, gate, up, 0.0);
  }

  enum class Source { kKept, kKeptElsewhere, kRmsNorm, kSwiglu };

  at::Tensor value;  // [..., M]
  Source source = Source::kKept;
  at::Tensor first;   // sum or gate
  at::Tensor second;  // w or up
  double eps = 0.0;

 private:
  LayerInput(const at::Tensor& x, Source source_of_x, const at::Tensor& a, const at::Tensor& b, double epsilon)
      : value(x), source(source_of_x), first(a), second(b), eps(epsilon) {}
};

// y_i = x w_i^T + b_i for layers with the same input. x [..., M] -> one [..., N_i] per layer.
//
// The gradient of a leaf weight is added to its .grad inside backward (one product that accumulates), not handed to the autograd engine,
// which would need a temporary of the weight's size for every micro-batch. The layers' input gradients are summed in place, in the order
// given.
//
// Integer products: x is rounded to 16 bits a value (two int8 digits) or 8 (one) relative to the largest of its row, to nearest, and so
// is the gradient of y times `step`; the sums are exact. The weight gradient is taken from the rounded x, in bf16 where that is an
// instruction, else in fp32. Not thread-safe for layers whose gradient is taken. Throws EnvironmentError when memory
// runs out, ConfigError for rounded inputs while gradients are recorded.
std::vector<at::Tensor> linear(const LayerInput& x, std::initializer_list<const Linear*> layers);
at::Tensor linear(const LayerInput& x, const Linear& layer);

}  // namespace stableqat
