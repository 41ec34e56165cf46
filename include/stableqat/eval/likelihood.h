// Log-likelihoods of many continuations: sequences of all lengths are packed without padding, what the requests of one document share is
// computed once, and the head meets only rows that predict a continuation.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/models/causal_lm.h"
#include "stableqat/tasks/encode.h"
#include "stableqat/tasks/results.h"

namespace stableqat {

// The requests of one document, most of which begin alike.
struct RequestGroup {
  std::vector<tasks::ScoredTokens> requests;
};

struct LikelihoodOptions {
  // Groups are packed up to about this many tokens: beyond, matrix products gain nothing. What is alive at once grows with it.
  std::int64_t tokens_at_once = 1024;
  // Fewer where their activations would take more than this; the requests of a group that does are then computed one by one.
  std::int64_t bytes_at_once = std::int64_t{512} << 20;
};

// Memory that the activations of one token take at most while it passes through the blocks, in bytes.
std::int64_t activation_bytes(const CausalLm& model);

// Receives the groups in order, each with one likelihood per request.
using LikelihoodSink = std::function<void(std::size_t group, std::vector<tasks::Likelihood> likelihoods)>;

// Tokens that the model has to read for a group: its first request and what the others do not share with it.
std::int64_t tokens_to_read(const RequestGroup& group);

// Scores all groups; false when `stop` asked to stop before the last. Progress counts tokens_to_read(). Throws DataError for ids that the
// model does not have. Not thread-safe: uses LibTorch's thread pool.
bool score_likelihoods(const CausalLm& model, std::span<const RequestGroup> groups, const LikelihoodOptions& options,
                       const LikelihoodSink& sink, const ProgressCallback& progress = {}, const StopRequested& stop = {});

}  // namespace stableqat
