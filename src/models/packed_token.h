// Decoding token by token from packed weights: a token's way through all blocks as one parallel region over plain buffers. The operations
// of CausalLm give the same bits, but spend most of a small model's time on making tensors and waking threads.
// Letters: C hidden, K key/value heads, D head size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "stableqat/models/causal_lm.h"

namespace stableqat {

// Keys and values of one sequence, per layer [1, capacity, K, D] float32, and how many tokens they hold.
struct CachedTokens {
  std::span<const at::Tensor> keys;
  std::span<const at::Tensor> values;
  std::int64_t length = 0;
};

// Whether decode_packed_token() can take these blocks: every matrix packed, the rest float32 on the CPU, heads of whole packed rows.
bool can_decode_packed(const ModelConfig& config, std::span<const DecoderLayer> layers);

// x [C], the embedding of the next token; rope holds its position -> [C], after the last norm. Adds its keys and values to the cache, whose
// length the caller raises. at::get_num_threads() threads share the work; results do not depend on their number.
at::Tensor decode_packed_token(const ModelConfig& config, std::span<const DecoderLayer> layers, const at::Tensor& norm, const at::Tensor& x,
                               const RopeTable& rope, const CachedTokens& cache);

}  // namespace stableqat
