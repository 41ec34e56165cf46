// Text as Python sees it: characters, and what counts as white space.
#pragma once

#include <string>
#include <string_view>

namespace stableqat::chat {

// Python's str.isspace() of one character.
bool is_space(char32_t code_point);

// Without the white space at an end. With `characters` (of UTF-8 text): without any of those.
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
std::string_view strip_left(std::string_view text, std::string_view characters);
std::string_view strip_right(std::string_view text, std::string_view characters);

// ASCII letters only.
std::string lower(std::string_view text);
std::string upper(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);

}  // namespace stableqat::chat
