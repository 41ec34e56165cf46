#include "stableqat/eval/perplexity.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mean.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "stableqat/base/error.h"
#include "stableqat/models/head.h"

namespace stableqat {

namespace {

void check_ids(std::span<const std::int32_t> ids, std::int64_t vocab_size) {
  if (ids.size() < 2) throw DataError({"text", std::to_string(ids.size()) + " tokens", "at least 2", "give a longer text"});
  const auto [low, high] = std::minmax_element(ids.begin(), ids.end());
  if (*low < 0 || *high >= vocab_size) {
    throw DataError({"text", "token id " + std::to_string(*low < 0 ? *low : *high), "ids below " + std::to_string(vocab_size),
                     "use the tokenizer that belongs to the model"});
  }
}

PerplexityResult summarize(const std::vector<double>& block_nll, std::int64_t predicted_per_block) {
  PerplexityResult result;
  result.blocks = block_nll.size();
  result.tokens = result.blocks * static_cast<std::uint64_t>(predicted_per_block);
  const double count = static_cast<double>(result.blocks);
  for (double nll : block_nll) result.nll += nll / count;
  if (result.blocks > 1) {
    double squares = 0.0;
    for (double nll : block_nll) squares += (nll - result.nll) * (nll - result.nll);
    result.standard_error = std::sqrt(squares / (count - 1) / count);
  }
  result.perplexity = std::exp(result.nll);
  if (!std::isfinite(result.nll)) {
    throw NumericError({"perplexity", "a likelihood that is not finite", "finite numbers", "check the model's weights"});
  }
  return result;
}

}  // namespace

PerplexityResult perplexity(const CausalLm& model, std::span<const std::int32_t> ids, const PerplexityOptions& options,
                            const ProgressCallback& progress, const StopRequested& stop) {
  const at::NoGradGuard no_grad;
  check_ids(ids, model.config().vocab_size);
  if (options.context < 2) throw ConfigError({"--context", std::to_string(options.context), "at least 2", ""});
  const std::int64_t context = std::min<std::int64_t>(options.context, static_cast<std::int64_t>(ids.size()));
  const std::int64_t blocks = static_cast<std::int64_t>(ids.size()) / context;
  const std::int64_t blocks_at_once = std::max<std::int64_t>(1, options.tokens_at_once / context);
  std::vector<double> block_nll;
  for (std::int64_t first = 0; first < blocks && !(stop && stop()); first += blocks_at_once) {
    const std::int64_t count = std::min(blocks_at_once, blocks - first);
    at::Tensor batch = at::empty({count, context}, at::kLong);
    std::copy_n(ids.begin() + first * context, count * context, batch.data_ptr<std::int64_t>());
    const at::Tensor nll = -token_log_probs(model, model.hidden_states(batch), batch).to(at::kDouble).mean(1);
    block_nll.insert(block_nll.end(), nll.data_ptr<double>(), nll.data_ptr<double>() + count);
    if (progress) {
      const auto total = static_cast<std::uint64_t>(blocks * context);
      progress({"perplexity", static_cast<std::uint64_t>((first + count) * context), total, "tokens"});
    }
  }
  return summarize(block_nll, context - 1);
}

}  // namespace stableqat
