// Reading UTF-8 that may be broken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace stableqat {

struct Utf8Character {
  char32_t code_point;
  std::uint32_t length;  // in bytes
};

// What a byte that does not belong to a well-formed sequence is read as; it is no character of any class.
inline constexpr char32_t kNotACharacter = 0xFFFFFFFF;

// The character at `at` < `end`: well-formed as in table 3-7 of the Unicode standard, or one single byte as kNotACharacter.
inline Utf8Character read_utf8(const char* at, const char* end) {
  const auto byte = [at](int i) { return static_cast<std::uint8_t>(at[i]); };
  const auto follows = [&byte](int i) { return (byte(i) & 0xC0) == 0x80; };
  const auto bits = [&byte](int i) { return static_cast<char32_t>(byte(i) & 0x3F); };
  const std::uint8_t lead = byte(0);
  const std::ptrdiff_t room = end - at;
  if (lead < 0x80) return {lead, 1};
  if (lead >= 0xC2 && lead < 0xE0 && room >= 2 && follows(1)) return {(lead & 0x1Fu) << 6 | bits(1), 2};
  if (lead >= 0xE0 && lead < 0xF0 && room >= 3 && follows(1) && follows(2)) {
    const char32_t code_point = (lead & 0xFu) << 12 | bits(1) << 6 | bits(2);
    if (code_point >= 0x800 && (code_point < 0xD800 || code_point >= 0xE000)) return {code_point, 3};
  } else if (lead >= 0xF0 && lead < 0xF5 && room >= 4 && follows(1) && follows(2) && follows(3)) {
    const char32_t code_point = (lead & 7u) << 18 | bits(1) << 12 | bits(2) << 6 | bits(3);
    if (code_point >= 0x10000 && code_point < 0x110000) return {code_point, 4};
  }
  return {kNotACharacter, 1};
}

// The start of the last character of the not empty text [begin, end).
inline const char* last_utf8(const char* begin, const char* end) {
  for (std::uint32_t length = 4; length > 1; --length) {
    if (end - begin >= static_cast<std::ptrdiff_t>(length) && read_utf8(end - length, end).length == length) return end - length;
  }
  return end - 1;
}

inline bool is_utf8(std::string_view text) {
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at != end;) {
    const Utf8Character character = read_utf8(at, end);
    if (character.code_point == kNotACharacter) return false;
    at += character.length;
  }
  return true;
}

}  // namespace stableqat
