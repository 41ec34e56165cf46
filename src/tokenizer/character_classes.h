// Classes of characters, as the regular expressions of Hugging Face's `tokenizers` know them.
#pragma once

#include <cstdint>
#include <vector>

#include "tokenizer/utf8.h"

namespace stableqat {

enum class CharacterClass : std::uint8_t { kOther, kLetter, kNumber, kSpace };  // kLetter = \p{L}, kNumber = \p{N}, kSpace = \s

class CharacterClasses {
 public:
  // `newest_digits`: numeric characters that only the Digits step knows (its Unicode version is newer) are numbers; otherwise they are
  // kOther.
  explicit CharacterClasses(bool newest_digits);

  CharacterClass operator[](char32_t code_point) const { return code_point < table_.size() ? table_[code_point] : CharacterClass::kOther; }

 private:
  std::vector<CharacterClass> table_;  // by code point, up to the last one that is not kOther
};

}  // namespace stableqat
