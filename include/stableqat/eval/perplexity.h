// Perplexity over consecutive, non-overlapping blocks of tokens, as in the quantization literature.
#pragma once

#include <cstdint>
#include <span>

#include "stableqat/base/log.h"
#include "stableqat/models/causal_lm.h"

namespace stableqat {

struct PerplexityOptions {
  std::int64_t context = 2048;         // tokens per block; the first of each block is not predicted
  std::int64_t tokens_at_once = 2048;  // blocks are batched up to about this many tokens
};

struct PerplexityResult {
  double perplexity = 0.0;      // exp(nll)
  double nll = 0.0;             // mean negative log-likelihood per predicted token, in nats
  double standard_error = 0.0;  // of nll, from the spread of the blocks' means (0 for a single block)
  double low = 0.0;             // 95 % confidence interval of perplexity: exp(nll -+ 1.96 standard errors)
  double high = 0.0;
  std::uint64_t tokens = 0;  // predicted
  std::uint64_t blocks = 0;
};

// The tokens left at the end that do not fill a block are left out; a text shorter than one block is one block. Throws DataError for fewer
// than two tokens or an id that the model does not have, NumericError when a likelihood is not finite. `stop` ends early with the blocks
// done so far.
PerplexityResult perplexity(const CausalLm& model, std::span<const std::int32_t> ids, const PerplexityOptions& options,
                            const ProgressCallback& progress = {}, const StopRequested& stop = {});

}  // namespace stableqat
