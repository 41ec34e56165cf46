#include "eval/token_blocks.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <string>

#include "stableqat/base/error.h"

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

}  // namespace

TokenBlocks::TokenBlocks(std::span<const std::int32_t> ids, std::int64_t vocab_size, const PerplexityOptions& options) : ids_(ids) {
  check_ids(ids, vocab_size);
  if (options.context < 2) throw ConfigError({"--context", std::to_string(options.context), "at least 2", ""});
  context_ = std::min<std::int64_t>(options.context, static_cast<std::int64_t>(ids.size()));
  count_ = static_cast<std::int64_t>(ids.size()) / context_;
  at_once_ = std::max<std::int64_t>(1, options.tokens_at_once / context_);
}

at::Tensor TokenBlocks::batch(std::int64_t first) const {
  const std::int64_t count = std::min(at_once_, count_ - first);
  at::Tensor batch = at::empty({count, context_}, at::kLong);
  std::copy_n(ids_.begin() + first * context_, count * context_, batch.data_ptr<std::int64_t>());
  return batch;
}

}  // namespace stableqat
