// Inputs of linear layers rounded to 8 bits a value, as llama.cpp rounds them on the CPU before its integer products: what that does to a
// model can be measured before it is served. For evaluation, without gradients. Source: ggml's quantize_row_q8_0_ref and
// quantize_row_q8_K_ref (ggml-quants.c), and vec_dot_type of its CPU back end's table of types. Letters: R rows, M in features.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "stableqat/io/ggml_types.h"

namespace stableqat {

class CausalLm;
class ModelSource;

enum class ActivationRounding {
  kNone,
  kQ8_0,  // blocks of 32 values: codes by largest magnitude / 127, halves away from zero; the scale in fp16
  kQ8_K,  // blocks of 256 values: the value of largest magnitude becomes -127, halves to even; the scale in fp32
};

// What inputs are rounded to before products with a weight of this type; kNone for types that are not quantized (ggml rounds inputs of F16
// and BF16 weights to those types, which is not done here). Q4_1 and Q5_1 take kQ8_0: their own form of it differs in the rounding of a
// block's sum only.
ActivationRounding activation_rounding_of(GgmlType type) noexcept;

// Values that share a scale; 1 for kNone.
std::int64_t activation_block(ActivationRounding rounding) noexcept;

// "none", "q8_0", "q8_k".
std::string activation_rounding_name(ActivationRounding rounding);

// x [..., M] rounded block by block along its rows, as a new tensor of x's type; rounded as float32. M is a whole number of blocks, else
// throws ConfigError.
at::Tensor rounded_activations(const at::Tensor& x, ActivationRounding rounding);

// Rounds the inputs of every linear layer of the blocks and of the head from now on. Layers whose rows are no multiple of 256 values take
// kQ8_0 in place of kQ8_K, like the types that llama.cpp's quantizer gives them. Throws ConfigError for rows that are no multiple of 32
// values and for a model that computes in bfloat16, which cannot hold what is rounded.
void round_activations(CausalLm& model, ActivationRounding rounding);

// The same as each weight's type in the GGUF file `source`, from which the model was read, implies. Throws ConfigError for a model of
// another form.
void round_activations_like_llama_cpp(CausalLm& model, const ModelSource& source);

}  // namespace stableqat
