#include "stableqat/models/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/models/head.h"

namespace stableqat {

namespace {

at::Tensor as_batch(std::span<const std::int32_t> ids) {
  at::Tensor batch = at::empty({1, static_cast<std::int64_t>(ids.size())}, at::kLong);
  std::copy(ids.begin(), ids.end(), batch.data_ptr<std::int64_t>());
  return batch;
}

// The logits [V] after the last row of hidden [1, T, C].
at::Tensor last_logits(const CausalLm& model, const at::Tensor& hidden) {
  return logits(model, hidden.select(1, hidden.size(1) - 1)).reshape({-1}).to(at::kFloat).contiguous();
}

}  // namespace

std::int64_t generate(const CausalLm& model, std::span<const std::int32_t> prompt, const GenerateOptions& options, const TokenSink& sink) {
  const at::NoGradGuard no_grad;
  if (prompt.empty()) throw ConfigError({"prompt", "no tokens", "at least one", "give a prompt"});
  const auto needed = static_cast<std::int64_t>(prompt.size()) + options.max_tokens;
  if (needed > model.config().max_position_embeddings) {
    throw ConfigError({"prompt and --max-tokens", std::to_string(needed) + " tokens",
                       "at most the model's " + std::to_string(model.config().max_position_embeddings), "shorten one of them"});
  }
  KvCache cache(model.config(), 1, needed, model.compute_dtype());
  Sampler sampler(options.sampling);
  std::vector<std::int32_t> seen(prompt.begin(), prompt.end());
  at::Tensor hidden = model.hidden_states(as_batch(prompt), &cache);
  for (std::int64_t count = 0; count < options.max_tokens; ++count) {
    const at::Tensor scores = last_logits(model, hidden);
    const std::int64_t choices = options.vocabulary > 0 ? std::min(options.vocabulary, scores.numel()) : scores.numel();
    const std::int32_t id = sampler.choose({scores.const_data_ptr<float>(), static_cast<std::size_t>(choices)}, seen);
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) return count;
    if (!sink(id)) return count + 1;
    seen.push_back(id);
    if (count + 1 < options.max_tokens) hidden = model.hidden_states(as_batch({&id, 1}), &cache);
  }
  return options.max_tokens;
}

}  // namespace stableqat
