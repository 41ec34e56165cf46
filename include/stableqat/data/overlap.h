// Which parts of a held-out text occur in training data, found by content: by their token ids, wherever and in whatever file they stand.
//
// A text is cut into parts: documents, and documents longer than kLongestPart ids into pieces of that length. A part counts as shared when
// at least half of its stretches of kStretch ids occur in the training data, at any place there; a document shorter than a stretch when it
// occurs there as a whole document. Fifty tokens are what Lee et al., "Deduplicating training data makes language models better" (2022),
// take for more than coincidence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "stableqat/base/log.h"
#include "stableqat/data/token_file.h"

namespace stableqat {

inline constexpr std::size_t kStretch = 50;
inline constexpr std::size_t kLongestPart = 1024;

struct Overlap {
  std::vector<std::int32_t> rest;  // the text without its shared parts
  std::uint64_t parts = 0;
  std::uint64_t shared_parts = 0;
  std::uint64_t shared_tokens = 0;
  std::uint64_t searched = 0;  // tokens of the training data
  std::uint64_t total = 0;     // that it has
};

// Searches the training data for the parts of `text`, in which `end_of_text` ends each document. Where the training data has more than
// `most_tokens`, it is searched in pieces of 2^20 tokens, spread evenly, of about that size together. One core; memory for `text` and one
// piece. Reports the stage "overlap" in tokens; when `stop` asks to stop, what was not searched yet counts as
// different. Throws what the streams throw. Thread-safe.
Overlap remove_overlap(std::span<const std::int32_t> text, std::int32_t end_of_text,
                       std::span<const std::shared_ptr<const TokenStream>> training, std::uint64_t most_tokens,
                       const ProgressCallback& progress = {}, const StopRequested& stop = {});

}  // namespace stableqat
