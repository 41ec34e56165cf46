// From texts to the tokens that are scored, exactly as the LM evaluation harness goes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/tasks/requests.h"
#include "stableqat/tokenizer/tokenizer.h"

namespace stableqat::tasks {

// Whether a text begins with the begin-of-text id: as the tokenizer's template says unless the text itself spells the id out (the harness
// since 0.4.9.2), always, or never (the harness before).
enum class BosMode { kAuto, kOn, kOff };

// log p of the last `scored` of `ids`, each given all before it.
struct ScoredTokens {
  std::vector<std::int32_t> ids;  // at least scored + 1
  std::int64_t scored = 0;
  bool truncated = false;  // the context was too long for the model, its start is left out
};

// Const members are thread-safe.
class RequestEncoder {
 public:
  // `max_length`: positions of the model, at least 2.
  RequestEncoder(const Tokenizer& tokenizer, BosMode bos, std::int64_t max_length);

  // Context and continuation are encoded as one text; the continuation's tokens are those beyond the number that the context alone has, and
  // follow the context's own (where a token spans the boundary, the two differ from the text's tokens). White space at the end of the
  // context counts as the continuation's. At most max_length + 1 ids are kept, the last ones. Throws DataError naming `where` for a
  // continuation without tokens or longer than the model's positions.
  ScoredTokens pair(const TextRequest& request, const std::string& where) const;

  // The windows by which a whole text is scored, each token once: the first follows the begin-of-text (or end-of-text) id, each other one
  // keeps one token of context, the last as many as fit.
  std::vector<ScoredTokens> rolling(std::string_view text) const;

 private:
  std::vector<std::int32_t> encode(std::string_view text) const;
  std::int32_t prefix() const;  // what stands before a text without context

  const Tokenizer& tokenizer_;
  BosMode bos_;
  std::size_t max_length_;
  std::optional<std::int32_t> prefix_id_;
  std::string prefix_text_;
};

}  // namespace stableqat::tasks
