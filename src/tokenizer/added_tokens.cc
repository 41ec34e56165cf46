#include "tokenizer/added_tokens.h"

#include "tokenizer/utf8.h"

namespace stableqat {

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens, const CharacterClasses& classes)
    : tokens_(std::move(tokens)), nodes_(1), classes_(&classes) {
  root_.fill(-1);
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    std::size_t node = 0;
    for (const char c : tokens_[i].text) {
      std::int32_t next = child(nodes_[node], c);
      if (next < 0) {
        next = static_cast<std::int32_t>(nodes_.size());
        nodes_[node].children.emplace_back(static_cast<std::uint8_t>(c), next);
        nodes_.emplace_back();
      }
      node = static_cast<std::size_t>(next);
    }
    if (node != 0) nodes_[node].token = static_cast<std::int32_t>(i);
  }
  for (const auto& [byte, node] : nodes_[0].children) root_[byte] = node;
}

std::int32_t AddedTokenFinder::child(const Node& node, char byte) const {
  for (const auto& [key, next] : node.children) {
    if (key == static_cast<std::uint8_t>(byte)) return next;
  }
  return -1;
}

const AddedToken* AddedTokenFinder::match(const char* at, const char* end) const {
  const AddedToken* longest = nullptr;
  std::int32_t node = root_[static_cast<std::uint8_t>(*at)];
  while (node >= 0) {
    const Node& reached = nodes_[static_cast<std::size_t>(node)];
    if (reached.token >= 0) longest = &tokens_[static_cast<std::size_t>(reached.token)];
    if (++at == end) break;
    node = child(reached, *at);
  }
  return longest;
}

const char* AddedTokenFinder::space_before(const char* begin, const char* at) const {
  while (at > begin) {
    const char* const last = last_utf8(begin, at);
    if ((*classes_)[read_utf8(last, at).code_point] != CharacterClass::kSpace) break;
    at = last;
  }
  return at;
}

const char* AddedTokenFinder::space_after(const char* at, const char* end) const {
  while (at < end) {
    const Utf8Character character = read_utf8(at, end);
    if ((*classes_)[character.code_point] != CharacterClass::kSpace) break;
    at += character.length;
  }
  return at;
}

}  // namespace stableqat
