// Finds added tokens in a text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/character_classes.h"
#include "tokenizer/spec.h"

namespace stableqat {

// At each place the longest token, from left to right (what `tokenizers` does with aho-corasick's LeftmostLongest). Immutable.
class AddedTokenFinder {
 public:
  // `classes` outlives the finder.
  AddedTokenFinder(std::vector<AddedToken> tokens, const CharacterClasses& classes);

  // Cuts the text at its added tokens: on_text(std::string_view) for each not empty part between them, on_token(id) for each token, in
  // order. Without parse_special, special tokens are part of the text.
  template <class OnText, class OnToken>
  void split(std::string_view text, bool parse_special, OnText&& on_text, OnToken&& on_token) const {
    const char* begin = text.data();
    const char* const end = begin + text.size();
    const auto flush = [&](const char* to) {
      if (begin < to) on_text(std::string_view(begin, static_cast<std::size_t>(to - begin)));
    };
    for (const char* at = tokens_.empty() ? end : begin; at < end;) {
      const AddedToken* token = root_[static_cast<std::uint8_t>(*at)] < 0 ? nullptr : match(at, end);
      if (token == nullptr) {
        ++at;
        continue;
      }
      const char* token_end = at + token->text.size();
      if (!token->special || parse_special) {
        flush(token->lstrip ? space_before(begin, at) : at);
        on_token(token->id);
        begin = token_end = token->rstrip ? space_after(token_end, end) : token_end;
      }
      at = token_end;
    }
    flush(end);
  }

 private:
  struct Node {
    std::int32_t token = -1;                                      // index into tokens_
    std::vector<std::pair<std::uint8_t, std::int32_t>> children;  // byte -> node
  };

  // The longest token at `at`, or nullptr.
  const AddedToken* match(const char* at, const char* end) const;
  const char* space_before(const char* begin, const char* at) const;
  const char* space_after(const char* at, const char* end) const;
  std::int32_t child(const Node& node, char byte) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<std::int32_t, 256> root_{};  // first byte -> node, -1 = none
  const CharacterClasses* classes_;
};

}  // namespace stableqat
