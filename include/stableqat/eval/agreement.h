// How far a quantized model has moved from its original, on text: finer than scores, which few documents decide.
#pragma once

#include <cstdint>
#include <span>

#include "stableqat/base/log.h"
#include "stableqat/eval/perplexity.h"
#include "stableqat/models/causal_lm.h"

namespace stableqat {

struct AgreementResult {
  // Kullback-Leibler divergence KL(reference || model) of the next token's distribution, per position, in nats.
  double mean_divergence = 0.0;
  double median_divergence = 0.0;
  double divergence_99 = 0.0;  // 99th percentile, nearest rank
  double same_top = 0.0;       // share of positions at which both find the same token the most likely
  std::uint64_t positions = 0;
};

// Over the blocks and predicted positions of perplexity(). Both models need the same vocabulary (ConfigError). Throws DataError for fewer
// than two tokens or an id that the models do not have, NumericError for logits that are not finite. `stop` ends early with what was done.
AgreementResult agreement(const CausalLm& model, const CausalLm& reference, std::span<const std::int32_t> ids,
                          const PerplexityOptions& options, const ProgressCallback& progress = {}, const StopRequested& stop = {});

}  // namespace stableqat
