#include "tokenizer/spec.h"

#include <limits>
#include <string_view>
#include <unordered_map>

#include "stableqat/base/error.h"

namespace stableqat {

std::string_view expression_of(WordPattern pattern) {
  switch (pattern) {
    case WordPattern::kLlama3:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case WordPattern::kQwen2:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case WordPattern::kGpt2:
      break;
  }
  return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
}

std::optional<WordPattern> pattern_of(std::string_view expression) {
  for (const WordPattern pattern : {WordPattern::kGpt2, WordPattern::kLlama3, WordPattern::kQwen2}) {
    if (expression == expression_of(pattern)) return pattern;
  }
  return std::nullopt;
}

void resolve_merges(TokenizerSpec& spec, const std::vector<std::pair<std::string, std::string>>& merges) {
  std::unordered_map<std::string_view, std::int32_t> ids;
  ids.reserve(spec.spelled.size());
  for (std::size_t id = 0; id < spec.spelled.size(); ++id) {
    if (!spec.spelled[id].empty()) ids.emplace(spec.spelled[id], static_cast<std::int32_t>(id));
  }
  const auto id_of = [&](const std::string& token, std::size_t rank) {
    const auto found = ids.find(token);
    if (found == ids.end()) {
      throw DataError({spec.source + ", merge " + std::to_string(rank), "token \"" + token + "\" that is not in the vocabulary",
                       "merges of known tokens", "take the vocabulary and the merges from the same model"});
    }
    return found->second;
  };
  spec.merges.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    spec.merges.push_back({id_of(left, rank), id_of(right, rank), id_of(left + right, rank)});
  }
}

}  // namespace stableqat
