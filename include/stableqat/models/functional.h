// Building blocks of the decoder as differentiable functions, in any floating type. fp32 on the CPU runs the kernels of this project; the
// rest, and each _ref, is the plain definition in ATen's operations that the kernels must match.
// Letters: B batch, T tokens, C hidden, H heads, K key/value heads, D head size, F feed-forward, N out features, M in features.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "stableqat/models/model_config.h"

namespace stableqat {

// Root-mean-square norm over the last dimension; reduced in fp32 at least. x [..., C], w [C].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps);
at::Tensor rms_norm_ref(const at::Tensor& x, const at::Tensor& w, double eps);

// sum = x + delta and normed = rms_norm(sum, w, eps), in one pass each way. x, delta [..., C]; delta may be undefined: then sum is x, and
// using `sum` in place of x from there on saves the addition of two gradients.
struct NormedSum {
  at::Tensor sum;
  at::Tensor normed;
};
NormedSum add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& w, double eps);
NormedSum add_rms_norm_ref(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& w, double eps);

// silu(gate) * up, [..., F] each. Keeps nothing else for backward.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
at::Tensor swiglu_ref(const at::Tensor& gate, const at::Tensor& up);

// Rows of `table` [V, C] for ids [B, T] (int64) -> [B, T, C]. The gradient is added to table.grad in place.
at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& ids);

// Inverse frequencies of rotary position embedding, [D/2], float64; Llama-3 scaling applied where the model has it.
at::Tensor rope_inverse_frequencies(const ModelConfig& config);

// Cosine and sine for positions first..first+T-1, each [T, D/2], in `dtype`.
struct RopeTable {
  at::Tensor cos;
  at::Tensor sin;
};
RopeTable rope_table(const at::Tensor& inverse_frequencies, std::int64_t first, std::int64_t tokens, at::ScalarType dtype);

// Rotates the halves of the last dimension against each other (Hugging Face order). x [B, T, H, D], any strides -> dense [B, T, H, D].
at::Tensor apply_rope(const at::Tensor& x, const RopeTable& table);
at::Tensor apply_rope_ref(const at::Tensor& x, const RopeTable& table);

// Causal attention with grouped heads. q [B, T, H, D]; k, v [B, S, K, D] with S >= T, the last T keys belonging to the queries, any strides
// -> [B, T, H, D]. fp32 on the CPU runs our kernels (kernels/attention.h); the rest, and _ref, ATen's scaled_dot_product_attention.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
at::Tensor causal_attention_ref(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace stableqat
