#include "stableqat/tasks/encode.h"

#include <algorithm>

#include "stableqat/base/error.h"
#include "tasks/unicode_text.h"

namespace stableqat::tasks {

RequestEncoder::RequestEncoder(const Tokenizer& tokenizer, BosMode bos, std::int64_t max_length)
    : tokenizer_(tokenizer), bos_(bos), max_length_(static_cast<std::size_t>(max_length)) {
  if (bos == BosMode::kOn && !tokenizer.bos_id()) {
    throw ConfigError({"--add-bos", "on", "auto or off", "this tokenizer has no begin-of-text id"});
  }
  prefix_id_ = tokenizer.bos_id() ? tokenizer.bos_id() : tokenizer.eos_id() ? tokenizer.eos_id() : tokenizer.end_of_text_id();
  if (prefix_id_) prefix_text_ = tokenizer.decode(std::span(&*prefix_id_, 1));
}

std::int32_t RequestEncoder::prefix() const {
  if (prefix_id_) return *prefix_id_;
  throw DataError({"tokenizer", "neither a begin-of-text nor an end-of-text id", "one of them, to stand before a text without context",
                   "use a complete tokenizer"});
}

std::vector<std::int32_t> RequestEncoder::encode(std::string_view text) const {
  if (bos_ == BosMode::kAuto && !(prefix_id_ && text.starts_with(prefix_text_))) return tokenizer_.encode(text);
  std::vector<std::int32_t> ids;
  if (bos_ == BosMode::kOn) ids.push_back(prefix());
  tokenizer_.encode(text, ids, {.add_special_tokens = false});
  if (bos_ == BosMode::kOn && ids.size() > 1 && ids[1] == ids[0]) ids.erase(ids.begin());
  return ids;
}

ScoredTokens RequestEncoder::pair(const TextRequest& request, const std::string& where) const {
  ScoredTokens tokens;
  std::size_t context = 1;
  if (request.context.empty()) {
    tokens.ids = tokenizer_.encode(request.continuation, {.add_special_tokens = false});
    if (tokens.ids.empty() || tokens.ids.front() != prefix()) tokens.ids.insert(tokens.ids.begin(), prefix());
  } else {
    tokens.ids = encode(request.context + request.continuation);
    const std::vector<std::int32_t> alone = encode(strip_right(request.context));
    context = alone.size();
    std::copy_n(alone.begin(), std::min(context, tokens.ids.size()), tokens.ids.begin());
  }
  if (tokens.ids.size() <= context || context == 0) {
    throw DataError({where, "'" + request.continuation + "' after the context: no token of its own", "a text to score", ""});
  }
  const std::size_t scored = tokens.ids.size() - context;
  if (scored > max_length_) {
    throw DataError({where, "a choice of " + std::to_string(scored) + " tokens", "at most the model's " + std::to_string(max_length_), ""});
  }
  tokens.scored = static_cast<std::int64_t>(scored);
  tokens.truncated = tokens.ids.size() > max_length_ + 1;
  if (tokens.truncated) tokens.ids.erase(tokens.ids.begin(), tokens.ids.end() - static_cast<std::ptrdiff_t>(max_length_ + 1));
  return tokens;
}

std::vector<ScoredTokens> RequestEncoder::rolling(std::string_view text) const {
  std::vector<std::int32_t> ids{prefix()};
  const std::vector<std::int32_t> encoded = encode(text);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  std::vector<ScoredTokens> windows;
  for (std::size_t predicted = 0; predicted < encoded.size();) {
    const std::size_t count = std::min(max_length_, encoded.size() - predicted);
    const std::size_t end = 1 + predicted + count;  // in ids, which begin with the prefix
    // The first window ends where the text or the model does; later ones are filled up with earlier tokens, which never reach the prefix.
    const std::size_t begin = predicted == 0 ? 0 : end - max_length_ - 1;
    ScoredTokens window;
    window.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.begin() + static_cast<std::ptrdiff_t>(end));
    window.scored = static_cast<std::int64_t>(count);
    windows.push_back(std::move(window));
    predicted += count;
  }
  return windows;
}

}  // namespace stableqat::tasks
