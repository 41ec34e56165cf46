// Causal attention with grouped heads, forward and backward, that never stores T x S scores. fp32, any head size; fast ones are multiples
// of 16. Sources: Dao et al., "FlashAttention" (2022), and Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018).
#pragma once

#include <cstdint>

#include "stableqat/kernels/head_strides.h"
#include "stableqat/kernels/isa.h"

namespace stableqat::kernels {

// Query t sees the keys 0 .. S - T + t: the last T keys are those of the queries. Head h reads the key/value head h / (H / K).
struct AttentionShape {
  std::int64_t batch;      // B
  std::int64_t tokens;     // T, at least 1
  std::int64_t keys;       // S >= T
  std::int64_t heads;      // H, a multiple of K
  std::int64_t kv_heads;   // K
  std::int64_t head_size;  // D
};

// In forward and backward: q, out and their gradients [B, T, H, D], k, v and their gradients [B, S, K, D], lse [B, H, T] dense; outputs
// overlap nothing. `scratch`, aligned to 64 bytes, holds as many floats as the function of that name says for `threads`, the number of
// OpenMP threads that share the work. Results do not depend on that number. Nothing throws.
struct AttentionKernels {
  // out = softmax(scale q k^T, over the keys seen) v; lse = log of the sum of exp(scale q k^T). scale > 0.
  void (*forward)(const AttentionShape& shape, float scale, HeadView<const float> q, HeadView<const float> k, HeadView<const float> v,
                  HeadView<float> out, float* lse, float* scratch, int threads);
  std::int64_t (*forward_scratch)(const AttentionShape& shape, int threads);

  // Gradients of q, k and v from d_out, that of out. `out` and `lse` are forward's results; the scores are computed again. The scratch
  // holds partial sums of dq, up to three times its size, so that keys can be shared by threads too.
  void (*backward)(const AttentionShape& shape, float scale, HeadView<const float> q, HeadView<const float> k, HeadView<const float> v,
                   HeadView<const float> out, const float* lse, HeadView<const float> d_out, HeadView<float> dq, HeadView<float> dk,
                   HeadView<float> dv, float* scratch, int threads);
  std::int64_t (*backward_scratch)(const AttentionShape& shape, int threads);

  // One query of one head, which sees all keys, in the calling thread: out [D] = softmax(scale q k^T) v. q [D]; rows [D] of k and v are
  // k_stride and v_stride elements apart. `scores` is scratch memory [keys].
  void (*one_query)(std::int64_t keys, std::int64_t head_size, float scale, const float* q, const float* k, std::int64_t k_stride,
                    const float* v, std::int64_t v_stride, float* out, float* scores);
};

// Throws what active_isa() throws. Thread-safe, as the kernels are.
const AttentionKernels& attention_kernels(Isa isa = active_isa());

}  // namespace stableqat::kernels
