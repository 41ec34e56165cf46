#include "tokenizer/character_classes.h"

#include <cstddef>

namespace stableqat {

namespace {

enum RangeClass : std::uint8_t { kOther, kLetter, kNumber, kSpace, kDigit };

struct Range {
  char32_t first;
  RangeClass range_class;
};

constexpr Range kRanges[] = {
#include "tokenizer/unicode_ranges.inc"
};

}  // namespace

CharacterClasses::CharacterClasses(bool newest_digits) {
  const std::size_t count = std::size(kRanges);
  table_.reserve(kRanges[count - 1].first);
  for (std::size_t i = 0; i + 1 < count; ++i) {
    RangeClass range_class = kRanges[i].range_class;
    if (range_class == kDigit) range_class = newest_digits ? kNumber : kOther;
    table_.resize(kRanges[i + 1].first, static_cast<CharacterClass>(range_class));
  }
}

}  // namespace stableqat
