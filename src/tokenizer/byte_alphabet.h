// The spelling that byte-level vocabularies use on disk: each of the 256 bytes is written as one printable Unicode character
// (bytes_to_unicode of OpenAI's GPT-2 encoder).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace stableqat {

// The character of one byte, as UTF-8.
std::string spell_byte(std::uint8_t byte);

// The bytes of a spelled token; nullopt if a character stands for no byte.
std::optional<std::string> unspell(std::string_view spelled);

// SentencePiece's spelling: the byte of a token "<0xE9>"; nullopt for any other.
std::optional<std::uint8_t> sentencepiece_byte(std::string_view spelled);

// Every U+2581 as a blank.
std::string with_blanks(std::string_view spelled);

}  // namespace stableqat
