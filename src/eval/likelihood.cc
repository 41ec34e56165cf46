#include "stableqat/eval/likelihood.h"

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <string>
#include <utility>

#include "stableqat/base/error.h"
#include "stableqat/models/head.h"
#include "stableqat/models/packed_batch.h"

namespace stableqat {

namespace {

using tasks::Likelihood;
using tasks::ScoredTokens;

// What the model reads of a request: the last token predicts nothing.
std::span<const std::int32_t> input_of(const ScoredTokens& request) { return std::span(request.ids).first(request.ids.size() - 1); }

std::int64_t shared_tokens(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

void check_ids(const ScoredTokens& request, std::int64_t vocab_size) {
  for (const std::int32_t id : request.ids) {
    if (id >= 0 && id < vocab_size) continue;
    throw DataError({"request", "token id " + std::to_string(id), "ids below " + std::to_string(vocab_size),
                     "use the tokenizer that belongs to the model"});
  }
}

// Groups packed into one batch, and which of its rows answer what.
class Pack {
 public:
  explicit Pack(std::int64_t vocab_size) : vocab_size_(vocab_size) {}

  void add(const RequestGroup& group) {
    const std::int64_t trunk_row = batch_.rows();
    const std::span<const std::int32_t> trunk = input_of(group.requests.front());
    batch_.add(trunk);
    for (const ScoredTokens& request : group.requests) {
      check_ids(request, vocab_size_);
      const std::span<const std::int32_t> input = input_of(request);
      const std::int64_t shared = shared_tokens(input, trunk);
      const std::int64_t branch_row = batch_.add_branch(trunk_row, shared, input.subspan(static_cast<std::size_t>(shared)));
      const auto length = static_cast<std::int64_t>(input.size());
      for (std::int64_t t = length - request.scored; t < length; ++t) {
        const std::int64_t row = t < shared ? trunk_row + t : branch_row + t - shared;
        queries_.push_back({row, request.ids[static_cast<std::size_t>(t + 1)]});
      }
      scored_.push_back(request.scored);
    }
  }

  std::int64_t tokens() const { return batch_.rows(); }

  // One likelihood for each request, in order.
  std::vector<Likelihood> score(const CausalLm& model) const {
    const std::vector<TokenAnswer> answers = query_tokens(model, model.hidden_states(batch_), queries_);
    std::vector<Likelihood> likelihoods;
    auto answer = answers.begin();
    for (const std::int64_t count : scored_) {
      Likelihood sum{0.0, true};
      for (std::int64_t i = 0; i < count; ++i, ++answer) {
        sum.log_likelihood += answer->log_prob;
        sum.is_greedy = sum.is_greedy && answer->is_greedy;
      }
      likelihoods.push_back(sum);
    }
    return likelihoods;
  }

 private:
  std::int64_t vocab_size_;
  PackedBatch batch_;
  std::vector<TokenQuery> queries_;
  std::vector<std::int64_t> scored_;  // tokens of each request
};

std::vector<Likelihood> one_by_one(const CausalLm& model, const RequestGroup& group) {
  std::vector<Likelihood> likelihoods;
  for (const ScoredTokens& request : group.requests) {
    Pack pack(model.config().vocab_size);
    pack.add({{request}});
    likelihoods.push_back(pack.score(model).front());
  }
  return likelihoods;
}

}  // namespace

std::int64_t activation_bytes(const CausalLm& model) {
  const ModelConfig& config = model.config();
  const std::int64_t heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim;
  // In attention the residual, the norm, queries, keys, values, both rotated, what is mixed and projected; in the feed-forward part the
  // residual and norm of either half, gate, up and their product.
  const std::int64_t values = 6 * config.hidden_size + std::max(4 * heads, 3 * config.intermediate_size);
  return values * static_cast<std::int64_t>(c10::elementSize(model.compute_dtype()));
}

std::int64_t tokens_to_read(const RequestGroup& group) {
  const std::span<const std::int32_t> trunk = input_of(group.requests.front());
  auto tokens = static_cast<std::int64_t>(trunk.size());
  for (const ScoredTokens& request : group.requests) {
    const std::span<const std::int32_t> input = input_of(request);
    tokens += static_cast<std::int64_t>(input.size()) - shared_tokens(input, trunk);
  }
  return tokens;
}

bool score_likelihoods(const CausalLm& model, std::span<const RequestGroup> groups, const LikelihoodOptions& options,
                       const LikelihoodSink& sink, const ProgressCallback& progress, const StopRequested& stop) {
  std::vector<std::int64_t> tokens;
  std::uint64_t total = 0;
  for (const RequestGroup& group : groups) {
    tokens.push_back(tokens_to_read(group));
    total += static_cast<std::uint64_t>(tokens.back());
  }
  const std::int64_t most_tokens = options.bytes_at_once / activation_bytes(model);
  const std::int64_t tokens_at_once = std::min(options.tokens_at_once, most_tokens);
  std::uint64_t done = 0;
  for (std::size_t first = 0; first < groups.size();) {
    if (stop && stop()) return false;
    if (tokens[first] > most_tokens) {
      sink(first, one_by_one(model, groups[first]));
      done += static_cast<std::uint64_t>(tokens[first++]);
      if (progress) progress({"evaluation", done, total, "tokens"});
      continue;
    }
    Pack pack(model.config().vocab_size);
    std::size_t end = first;
    do {
      pack.add(groups[end++]);
    } while (end < groups.size() && pack.tokens() + tokens[end] <= tokens_at_once);
    const std::vector<Likelihood> likelihoods = pack.score(model);
    auto next = likelihoods.begin();
    for (; first < end; ++first) {
      const auto count = static_cast<std::ptrdiff_t>(groups[first].requests.size());
      sink(first, {next, next + count});
      next += count;
    }
    done += static_cast<std::uint64_t>(pack.tokens());
    if (progress) progress({"evaluation", done, total, "tokens"});
  }
  return true;
}

}  // namespace stableqat
