#include "stableqat/eval/perplexity.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mean.h>

#include <cmath>
#include <vector>

#include "eval/token_blocks.h"
#include "stableqat/base/error.h"
#include "stableqat/models/head.h"

namespace stableqat {

namespace {

// Half the width of a 95 % interval in standard errors, by the normal distribution.
constexpr double kWidth95 = 1.959963984540054;

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
  result.low = std::exp(result.nll - kWidth95 * result.standard_error);
  result.high = std::exp(result.nll + kWidth95 * result.standard_error);
  if (!std::isfinite(result.nll)) {
    throw NumericError({"perplexity", "a likelihood that is not finite", "finite numbers", "check the model's weights"});
  }
  return result;
}

}  // namespace

PerplexityResult perplexity(const CausalLm& model, std::span<const std::int32_t> ids, const PerplexityOptions& options,
                            const ProgressCallback& progress, const StopRequested& stop) {
  const at::NoGradGuard no_grad;
  const TokenBlocks blocks(ids, model.config().vocab_size, options);
  std::vector<double> block_nll;
  for (std::int64_t first = 0; first < blocks.count() && !(stop && stop()); first += blocks.at_once()) {
    const at::Tensor batch = blocks.batch(first);
    const at::Tensor nll = -token_log_probs(model, model.hidden_states(batch), batch).to(at::kDouble).mean(1).cpu();
    block_nll.insert(block_nll.end(), nll.data_ptr<double>(), nll.data_ptr<double>() + batch.size(0));
    if (progress) {
      const auto done = static_cast<std::uint64_t>((first + batch.size(0)) * blocks.context());
      progress({"perplexity", done, static_cast<std::uint64_t>(blocks.count() * blocks.context()), "tokens"});
    }
  }
  return summarize(block_nll, blocks.context() - 1);
}

}  // namespace stableqat
