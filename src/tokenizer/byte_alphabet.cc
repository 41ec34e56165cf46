#include "tokenizer/byte_alphabet.h"

#include <array>
#include <charconv>

#include "tokenizer/utf8.h"

namespace stableqat {

namespace {

constexpr char32_t kShift = 0x100;

constexpr bool stands_for_itself(char32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<std::int16_t, 0x200> byte{};  // by code point; -1 = none
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(-1);
  char32_t next = kShift;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const char32_t character = stands_for_itself(byte) ? byte : next++;
    alphabet.character[byte] = character;
    alphabet.byte[character] = static_cast<std::int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

std::string spell_byte(std::uint8_t byte) {
  const char32_t character = kAlphabet.character[byte];
  if (character < 0x80) return std::string(1, static_cast<char>(character));
  return {static_cast<char>(0xC0 | (character >> 6)), static_cast<char>(0x80 | (character & 0x3F))};
}

std::optional<std::string> unspell(std::string_view spelled) {
  std::string bytes;
  bytes.reserve(spelled.size());
  const char* at = spelled.data();
  const char* const end = at + spelled.size();
  while (at != end) {
    const Utf8Character character = read_utf8(at, end);
    if (character.code_point >= kAlphabet.byte.size() || kAlphabet.byte[character.code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte[character.code_point]));
    at += character.length;
  }
  return bytes;
}

std::optional<std::uint8_t> sentencepiece_byte(std::string_view spelled) {
  if (spelled.size() != 6 || !spelled.starts_with("<0x") || spelled.back() != '>') return std::nullopt;
  std::uint8_t byte = 0;
  const auto [end, error] = std::from_chars(spelled.data() + 3, spelled.data() + 5, byte, 16);
  return error == std::errc() && end == spelled.data() + 5 ? std::optional(byte) : std::nullopt;
}

std::string with_blanks(std::string_view spelled) {
  constexpr std::string_view kMark = "\xe2\x96\x81";
  std::string text;
  for (std::size_t mark = 0; (mark = spelled.find(kMark)) != std::string_view::npos; spelled.remove_prefix(mark + kMark.size())) {
    text.append(spelled.substr(0, mark)) += ' ';
  }
  return text.append(spelled);
}

}  // namespace stableqat
