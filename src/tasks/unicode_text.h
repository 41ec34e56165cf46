// Strings as Python sees them: sequences of code points, with Python's idea of white space and letter case. Bytes that are not UTF-8 count
// as one code point each and are neither.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace stableqat::tasks {

// str.isspace() of one code point.
bool is_space(char32_t code_point) noexcept;

std::string_view strip_left(std::string_view text) noexcept;
std::string_view strip_right(std::string_view text) noexcept;
std::string_view strip(std::string_view text) noexcept;

std::uint64_t count_code_points(std::string_view text) noexcept;

// Fields of re.split(r"\s+", text): those at the ends may be empty.
std::uint64_t count_words(std::string_view text) noexcept;

// Letter case of Latin, Greek, Cyrillic and Armenian letters, code point by code point; all others stay.
std::string lower(std::string_view text);
std::string upper(std::string_view text);
// The first letter in upper case, all others in lower case.
std::string capitalize(std::string_view text);

std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace stableqat::tasks
