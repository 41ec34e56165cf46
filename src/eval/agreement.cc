#include "stableqat/eval/agreement.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "eval/token_blocks.h"
#include "stableqat/base/error.h"
#include "stableqat/models/head.h"

namespace stableqat {

namespace {

// Rows whose distributions are alive at once: several arrays of this many rows times the vocabulary.
constexpr std::int64_t kRows = 128;

// Of each position.
struct Divergences {
  std::vector<double> values;
  std::uint64_t same_top = 0;

  // Final hidden states [R, C] of both models at the same positions.
  void add(const CausalLm& model, const at::Tensor& hidden, const CausalLm& reference, const at::Tensor& reference_hidden) {
    for (std::int64_t first = 0; first < hidden.size(0); first += kRows) {
      const std::int64_t count = std::min(kRows, hidden.size(0) - first);
      const at::Tensor q = at::log_softmax(logits(model, hidden.narrow(0, first, count)), 1);
      const at::Tensor p = at::log_softmax(logits(reference, reference_hidden.narrow(0, first, count)), 1);
      const at::Tensor divergence = at::sum((p - q).mul_(p.exp()), {1}, false, at::kDouble);
      const auto* data = divergence.const_data_ptr<double>();
      values.insert(values.end(), data, data + count);
      same_top += static_cast<std::uint64_t>((q.argmax(1) == p.argmax(1)).sum().item<std::int64_t>());
    }
  }
};

AgreementResult summarize(Divergences all) {
  AgreementResult result;
  result.positions = all.values.size();
  if (all.values.empty()) return result;
  const auto count = static_cast<double>(all.values.size());
  result.mean_divergence = std::accumulate(all.values.begin(), all.values.end(), 0.0) / count;
  if (!std::isfinite(result.mean_divergence)) {
    throw NumericError({"agreement", "logits that are not finite", "finite numbers", "check the models' weights"});
  }
  std::sort(all.values.begin(), all.values.end());
  const auto at_rank = [&](double share) { return all.values[static_cast<std::size_t>(std::ceil(share * count)) - 1]; };
  result.median_divergence = at_rank(0.5);
  result.divergence_99 = at_rank(0.99);
  result.same_top = static_cast<double>(all.same_top) / count;
  return result;
}

at::Tensor predicting_rows(const CausalLm& model, const at::Tensor& batch) {
  const at::Tensor hidden = model.hidden_states(batch);
  return hidden.narrow(1, 0, hidden.size(1) - 1).reshape({-1, hidden.size(2)});
}

}  // namespace

AgreementResult agreement(const CausalLm& model, const CausalLm& reference, std::span<const std::int32_t> ids,
                          const PerplexityOptions& options, const ProgressCallback& progress, const StopRequested& stop) {
  const at::NoGradGuard no_grad;
  if (model.config().vocab_size != reference.config().vocab_size) {
    throw ConfigError({"--reference", "a vocabulary of " + std::to_string(reference.config().vocab_size),
                       "the model's " + std::to_string(model.config().vocab_size), "name the model that this one was made from"});
  }
  const TokenBlocks blocks(ids, model.config().vocab_size, options);
  Divergences all;
  for (std::int64_t first = 0; first < blocks.count() && !(stop && stop()); first += blocks.at_once()) {
    const at::Tensor batch = blocks.batch(first);
    all.add(model, predicting_rows(model, batch), reference, predicting_rows(reference, batch));
    if (progress) {
      const auto done = static_cast<std::uint64_t>((first + batch.size(0)) * blocks.context());
      progress({"agreement", done, static_cast<std::uint64_t>(blocks.count() * blocks.context()), "tokens"});
    }
  }
  return summarize(std::move(all));
}

}  // namespace stableqat
