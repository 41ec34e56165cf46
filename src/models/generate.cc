#include "stableqat/models/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>

#include "stableqat/base/error.h"
#include "stableqat/models/head.h"

namespace stableqat {

namespace {

// Uniform in [0, 1) from the engine's 64 bits, the same on every standard library.
double uniform(std::mt19937_64& engine) { return static_cast<double>(engine() >> 11) * 0x1.0p-53; }

std::int32_t choose(const at::Tensor& values, double temperature, std::mt19937_64& engine) {
  const at::Tensor row = values.reshape({-1}).to(at::kDouble);
  const std::span<const double> scores(row.data_ptr<double>(), static_cast<std::size_t>(row.numel()));
  const auto best = std::max_element(scores.begin(), scores.end());
  if (!std::isfinite(*best)) throw NumericError({"logits", std::to_string(*best), "finite numbers", "check the model's weights"});
  if (temperature <= 0) return static_cast<std::int32_t>(best - scores.begin());
  const at::Tensor probabilities = at::softmax(row / temperature, 0);
  const std::span<const double> p(probabilities.data_ptr<double>(), scores.size());
  double left = uniform(engine);
  for (std::size_t i = 0; i < p.size(); ++i) {
    left -= p[i];
    if (left < 0) return static_cast<std::int32_t>(i);
  }
  return static_cast<std::int32_t>(best - scores.begin());  // rounding left a sliver of probability
}

at::Tensor as_batch(std::span<const std::int32_t> ids) {
  at::Tensor batch = at::empty({1, static_cast<std::int64_t>(ids.size())}, at::kLong);
  std::copy(ids.begin(), ids.end(), batch.data_ptr<std::int64_t>());
  return batch;
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
  std::mt19937_64 engine(options.seed);
  at::Tensor hidden = model.hidden_states(as_batch(prompt), &cache);
  for (std::int64_t count = 0; count < options.max_tokens; ++count) {
    const std::int32_t id = choose(logits(model, hidden.select(1, hidden.size(1) - 1)), options.temperature, engine);
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) return count;
    if (!sink(id)) return count + 1;
    if (count + 1 < options.max_tokens) hidden = model.hidden_states(as_batch({&id, 1}), &cache);
  }
  return options.max_tokens;
}

}  // namespace stableqat
