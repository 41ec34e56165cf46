// Continues a text token by token, with a key/value cache.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "stableqat/models/causal_lm.h"
#include "stableqat/models/sampler.h"

namespace stableqat {

struct GenerateOptions {
  std::int64_t max_tokens = 128;
  std::int64_t vocabulary = 0;  // only ids below it are chosen, as embeddings often have more rows than there are tokens; 0 = all
  SamplingOptions sampling;     // same seed, same text (same machine and threads)
  std::vector<std::int32_t> stop_ids;
};

// Receives each new token; false ends the text.
using TokenSink = std::function<bool(std::int32_t)>;

// Feeds `prompt` (at least one id), then up to max_tokens tokens to `sink`, without the stop id that ended the text. Returns their number.
// Prompt and answer together may not exceed the model's positions (ConfigError). Throws NumericError when logits are not finite.
std::int64_t generate(const CausalLm& model, std::span<const std::int32_t> prompt, const GenerateOptions& options, const TokenSink& sink);

}  // namespace stableqat
