// A text as blocks of equal length, a few at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "stableqat/eval/perplexity.h"

namespace stableqat {

class TokenBlocks {
 public:
  // Throws DataError for fewer than two ids or one that is not below `vocab_size`, ConfigError for a context of fewer than two tokens.
  TokenBlocks(std::span<const std::int32_t> ids, std::int64_t vocab_size, const PerplexityOptions& options);

  std::int64_t context() const noexcept { return context_; }  // tokens in each block
  std::int64_t count() const noexcept { return count_; }
  std::int64_t at_once() const noexcept { return at_once_; }

  // Blocks first .. first + min(at_once, what is left) - 1 as [B, context] int64.
  at::Tensor batch(std::int64_t first) const;

 private:
  std::span<const std::int32_t> ids_;
  std::int64_t context_;
  std::int64_t count_;
  std::int64_t at_once_;
};

}  // namespace stableqat
