#include "tokenizer/normal_form.h"

#include <utf8proc.h>

#include <array>
#include <cstdlib>
#include <memory>

#include "tokenizer/utf8.h"

namespace stableqat {

namespace {

constexpr char32_t kEndOfDecompositions = 0x2FA1E;  // no character from here on has one; those of combining class are below as well
constexpr char32_t kFirstCombining = 0x300;
constexpr unsigned char kLeadOfFirstCombining = 0xCC;  // its UTF-8, and that of everything after it, begins with this byte or a higher one

constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

bool is_hangul_syllable(char32_t c) { return c >= 0xAC00 && c < 0xD7A4; }

// The canonical decomposition, in full; empty when it is the character itself.
std::u32string decomposition(char32_t c) {
  std::array<utf8proc_int32_t, 8> parts{};
  int boundary = 0;
  const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
                                             UTF8PROC_DECOMPOSE, &boundary);
  if (count < 1 || static_cast<std::size_t>(count) > parts.size() || (count == 1 && parts[0] == static_cast<utf8proc_int32_t>(c)))
    return {};
  return {parts.begin(), parts.begin() + count};
}

}  // namespace

NormalFormC::NormalFormC() : may_change_(kEndOfDecompositions) {
  for (char32_t c = kFirstCombining; c < kEndOfDecompositions; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    if (utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class != 0) may_change_[c] = true;
    const std::u32string parts = decomposition(c);
    if (parts.empty()) continue;
    may_change_[parts.back()] = true;  // joins the character before it
    if (is_hangul_syllable(c)) continue;
    std::array<utf8proc_uint8_t, 4> utf8{};
    const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), utf8.data());
    const std::string_view alone(reinterpret_cast<const char*>(utf8.data()), static_cast<std::size_t>(length));
    std::string normalized;
    if (append_normalized(alone.data(), alone.data() + alone.size(), normalized) && normalized != alone) may_change_[c] = true;
  }
}

bool NormalFormC::append_normalized(const char* begin, const char* end, std::string& text) {
  utf8proc_uint8_t* result = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(begin), end - begin, &result, kCompose);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (size < 0) return false;
  text.append(reinterpret_cast<const char*>(result), static_cast<std::size_t>(size));
  return true;
}

std::string_view NormalFormC::operator()(std::string_view text, std::string& storage) const {
  storage.clear();
  const char* const end = text.data() + text.size();
  const char* copied = text.data();       // what lies before is in `storage`, if anything had to change
  const char* last_steady = text.data();  // the last character that stays
  for (const char* at = text.data(); at != end;) {
    const auto byte = static_cast<unsigned char>(*at);
    if (byte < kLeadOfFirstCombining) {
      if ((byte & 0xC0) != 0x80) last_steady = at;  // not inside a character
      ++at;
      continue;
    }
    const Utf8Character character = read_utf8(at, end);
    if (character.code_point == kNotACharacter) return text;
    if (!may_change(character.code_point)) {
      last_steady = at;
      at += character.length;
      continue;
    }
    while (at != end) {
      const Utf8Character next = read_utf8(at, end);
      if (next.code_point == kNotACharacter) return text;
      if (!may_change(next.code_point)) break;
      at += next.length;
    }
    storage.append(copied, last_steady);
    if (!append_normalized(last_steady, at, storage)) return text;
    copied = last_steady = at;
  }
  if (copied == text.data()) return text;
  storage.append(copied, end);
  return storage;
}

}  // namespace stableqat
