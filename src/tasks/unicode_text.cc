#include "tasks/unicode_text.h"

#include <algorithm>
#include <array>

#include "tokenizer/utf8.h"

namespace stableqat::tasks {

namespace {

// Upper-case letters first, first + step, ..., last; their lower-case forms are `distance` further on (modulo 2^32).
struct CaseRange {
  char32_t first;
  char32_t last;
  std::uint32_t step;
  char32_t distance;
};
constexpr std::array kCaseRanges{
    CaseRange{0x41, 0x5A, 1, 32},    CaseRange{0xC0, 0xD6, 1, 32},     CaseRange{0xD8, 0xDE, 1, 32},
    CaseRange{0x100, 0x12E, 2, 1},   CaseRange{0x132, 0x136, 2, 1},    CaseRange{0x139, 0x147, 2, 1},
    CaseRange{0x14A, 0x176, 2, 1},   CaseRange{0x179, 0x17D, 2, 1},    CaseRange{0x386, 0x386, 1, 38},
    CaseRange{0x388, 0x38A, 1, 37},  CaseRange{0x38C, 0x38C, 1, 64},   CaseRange{0x38E, 0x38F, 1, 63},
    CaseRange{0x391, 0x3A1, 1, 32},  CaseRange{0x3A3, 0x3AB, 1, 32},   CaseRange{0x400, 0x40F, 1, 80},
    CaseRange{0x410, 0x42F, 1, 32},  CaseRange{0x460, 0x480, 2, 1},    CaseRange{0x48A, 0x4BE, 2, 1},
    CaseRange{0x4C0, 0x4C0, 1, 15},  CaseRange{0x4C1, 0x4CD, 2, 1},    CaseRange{0x178, 0x178, 1, 0xFFFFFF87},
    CaseRange{0x4D0, 0x52E, 2, 1},   CaseRange{0x531, 0x556, 1, 48},   CaseRange{0x1E00, 0x1E94, 2, 1},
    CaseRange{0x1EA0, 0x1EFE, 2, 1}, CaseRange{0xFF21, 0xFF3A, 1, 32},
};

char32_t to_lower(char32_t c) {
  for (const CaseRange& range : kCaseRanges) {
    if (c >= range.first && c <= range.last && (c - range.first) % range.step == 0) return c + range.distance;
  }
  return c;
}

char32_t to_upper(char32_t c) {
  for (const CaseRange& range : kCaseRanges) {
    if (c < range.first + range.distance || c > range.last + range.distance) continue;
    if ((c - range.distance - range.first) % range.step == 0) return c - range.distance;
  }
  return c;
}

void append_utf8(std::string& text, char32_t c) {
  const auto byte = [&text](std::uint32_t value) { text += static_cast<char>(value); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6);
    byte(0x80 | (c & 0x3F));
  } else {  // no letter with a case here lies beyond the first plane
    byte(0xE0 | c >> 12);
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  }
}

// Calls f(character, its bytes) in order.
template <class F>
void for_each_character(std::string_view text, F&& f) {
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at != end;) {
    const Utf8Character character = read_utf8(at, end);
    f(character.code_point, std::string_view(at, character.length));
    at += character.length;
  }
}

template <class Turn>
std::string turned(std::string_view text, Turn&& turn) {
  std::string result;
  result.reserve(text.size());
  for_each_character(text, [&](char32_t c, std::string_view bytes) {
    const char32_t other = c == kNotACharacter ? c : turn(c);
    if (other == c) {
      result += bytes;
    } else {
      append_utf8(result, other);
    }
  });
  return result;
}

}  // namespace

bool is_space(char32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view strip_left(std::string_view text) noexcept {
  while (!text.empty()) {
    const Utf8Character first = read_utf8(text.data(), text.data() + text.size());
    if (!is_space(first.code_point)) break;
    text.remove_prefix(first.length);
  }
  return text;
}

std::string_view strip_right(std::string_view text) noexcept {
  while (!text.empty()) {
    const char* const end = text.data() + text.size();
    const char* const last = last_utf8(text.data(), end);
    if (!is_space(read_utf8(last, end).code_point)) break;
    text.remove_suffix(static_cast<std::size_t>(end - last));
  }
  return text;
}

std::string_view strip(std::string_view text) noexcept { return strip_right(strip_left(text)); }

std::uint64_t count_code_points(std::string_view text) noexcept {
  std::uint64_t count = 0;
  for_each_character(text, [&count](char32_t, std::string_view) { ++count; });
  return count;
}

std::uint64_t count_words(std::string_view text) noexcept {
  std::uint64_t runs_of_space = 0;
  bool in_space = false;
  for_each_character(text, [&](char32_t c, std::string_view) {
    const bool space = is_space(c);
    if (space && !in_space) ++runs_of_space;
    in_space = space;
  });
  return runs_of_space + 1;
}

std::string lower(std::string_view text) { return turned(text, to_lower); }

std::string upper(std::string_view text) { return turned(text, to_upper); }

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  const std::size_t first = read_utf8(text.data(), text.data() + text.size()).length;
  return upper(text.substr(0, first)) + lower(text.substr(first));
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (;;) {
    const std::size_t at = text.find(from);
    result += text.substr(0, at);
    if (at == std::string_view::npos) return result;
    result += to;
    text.remove_prefix(at + from.size());
  }
}

}  // namespace stableqat::tasks
