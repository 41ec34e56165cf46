#include "chat/text.h"

#include <algorithm>

#include "tokenizer/utf8.h"

namespace stableqat::chat {

namespace {

// The text of the first, and of the last, character of a text that is not empty.
std::string_view first_character(std::string_view text) { return text.substr(0, read_utf8(text.data(), text.data() + text.size()).length); }
std::string_view last_character(std::string_view text) {
  const char* const end = text.data() + text.size();
  return text.substr(static_cast<std::size_t>(last_utf8(text.data(), end) - text.data()));
}

bool is_blank(std::string_view character) { return is_space(read_utf8(character.data(), character.data() + character.size()).code_point); }

bool has_character(std::string_view characters, std::string_view wanted) {
  while (!characters.empty()) {
    const std::string_view character = first_character(characters);
    if (character == wanted) return true;
    characters.remove_prefix(character.size());
  }
  return false;
}

template <class Test>
std::string_view without_left(std::string_view text, Test goes) {
  while (!text.empty() && goes(first_character(text))) text.remove_prefix(first_character(text).size());
  return text;
}

template <class Test>
std::string_view without_right(std::string_view text, Test goes) {
  while (!text.empty() && goes(last_character(text))) text.remove_suffix(last_character(text).size());
  return text;
}

char lower_letter(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
char upper_letter(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
bool is_letter(char c) { return lower_letter(c) >= 'a' && lower_letter(c) <= 'z'; }

}  // namespace

bool is_space(char32_t c) {
  if (c < 0x80) return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

std::string_view strip_left(std::string_view text) { return without_left(text, is_blank); }
std::string_view strip_right(std::string_view text) { return without_right(text, is_blank); }
std::string_view strip_left(std::string_view text, std::string_view characters) {
  return without_left(text, [characters](std::string_view c) { return has_character(characters, c); });
}
std::string_view strip_right(std::string_view text, std::string_view characters) {
  return without_right(text, [characters](std::string_view c) { return has_character(characters, c); });
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), lower_letter);
  return result;
}

std::string upper(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), upper_letter);
  return result;
}

std::string capitalize(std::string_view text) {
  std::string result = lower(text);
  if (!result.empty()) result[0] = upper_letter(result[0]);
  return result;
}

std::string title(std::string_view text) {
  std::string result = lower(text);
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (i == 0 || !is_letter(result[i - 1])) result[i] = upper_letter(result[i]);
  }
  return result;
}

}  // namespace stableqat::chat
