// Cuts text into the words that are encoded one by one. The regular expressions of the models are written out as scanners, one pass over
// the bytes, no backtracking; each scanner below quotes the expression it stands for.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "tokenizer/character_classes.h"
#include "tokenizer/spec.h"

namespace stableqat {

// One text and a position in it.
class WordScanner {
 public:
  using AsciiClasses = std::array<CharacterClass, 128>;

  WordScanner(std::string_view text, const CharacterClasses& classes, const AsciiClasses& ascii)
      : at_(text.data()), end_(text.data() + text.size()), classes_(classes), ascii_(ascii) {}

  bool done() const { return at_ == end_; }

  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  // split_digits: as if the text were first cut before and after every number character.
  template <bool split_digits>
  std::string_view next_gpt2() {
    if (const char* end = contraction<false>(at_)) return take(end);
    const char* const first = at_ + (*at_ == ' ' && at_ + 1 != end_);
    const Character character = read(first);
    if (split_digits && character.is == CharacterClass::kNumber) return take(first == at_ ? first + character.length : first);
    if (character.is != CharacterClass::kSpace) return take(skip(first + character.length, character.is));
    const char* const end = skip(at_, CharacterClass::kSpace);
    if (split_digits && end != end_ && read(end).is == CharacterClass::kNumber) return take(end);
    return take(leave_one(end));
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  // Llama 3 has at most three number characters in a word, Qwen one.
  template <int max_numbers>
  std::string_view next_llama3() {
    if (const char* end = contraction<true>(at_)) return take(end);
    const Character character = read(at_);
    const char* const second = at_ + character.length;
    if (character.is == CharacterClass::kLetter) return take(skip(second, CharacterClass::kLetter));
    if (character.is == CharacterClass::kNumber) return take(skip_numbers(second, max_numbers - 1));
    if (second != end_ && !is_line_end(*at_)) {
      const Character next = read(second);
      if (next.is == CharacterClass::kLetter) return take(skip(second + next.length, CharacterClass::kLetter));
      if (next.is == CharacterClass::kOther && *at_ == ' ') return take(skip_symbols(second));
    }
    if (character.is == CharacterClass::kOther) return take(skip_symbols(at_));
    const char* const end = skip(at_, CharacterClass::kSpace);
    for (const char* p = end; p != at_; --p) {
      if (is_line_end(p[-1])) return take(p);
    }
    return take(leave_one(end));
  }

 private:
  struct Character {
    CharacterClass is;
    std::uint32_t length;
  };

  static bool is_line_end(char c) { return c == '\r' || c == '\n'; }

  Character read(const char* p) const {
    const auto byte = static_cast<std::uint8_t>(*p);
    if (byte < 0x80) return {ascii_[byte], 1};
    const Utf8Character character = read_utf8(p, end_);
    return {classes_[character.code_point], character.length};
  }

  std::string_view take(const char* end) {
    const std::string_view word(at_, static_cast<std::size_t>(end - at_));
    at_ = end;
    return word;
  }

  const char* skip(const char* p, CharacterClass wanted) const {
    while (p != end_) {
      const Character character = read(p);
      if (character.is != wanted) break;
      p += character.length;
    }
    return p;
  }

  const char* skip_numbers(const char* p, int at_most) const {
    for (; at_most > 0 && p != end_; --at_most) {
      const Character character = read(p);
      if (character.is != CharacterClass::kNumber) break;
      p += character.length;
    }
    return p;
  }

  const char* skip_symbols(const char* p) const {
    p = skip(p, CharacterClass::kOther);
    while (p != end_ && is_line_end(*p)) ++p;
    return p;
  }

  // White space [at_, end): all of it at the end of the text, else all but its last character, if that leaves any.
  const char* leave_one(const char* end) const {
    if (end == end_) return end;
    const char* const last = last_utf8(at_, end);
    return last == at_ ? end : last;
  }

  // The end of an English contraction at p, or nullptr.
  template <bool any_case>
  const char* contraction(const char* p) const {
    if (*p != '\'' || end_ - p < 2) return nullptr;
    const auto letter = [this](const char* q) {
      return q == end_ ? '\0' : static_cast<char>(any_case && *q >= 'A' && *q <= 'Z' ? *q + 32 : *q);
    };
    const char second = letter(p + 1);
    if (second == 's' || second == 't' || second == 'm' || second == 'd') return p + 2;
    const char third = letter(p + 2);
    if ((second == 'r' || second == 'v') && third == 'e') return p + 3;
    if (second == 'l' && third == 'l') return p + 3;
    // U+017F, the long s, is an s in another case.
    if (any_case && second == '\xC5' && third == '\xBF') return p + 3;
    return nullptr;
  }

  const char* at_;
  const char* end_;
  const CharacterClasses& classes_;
  const AsciiClasses& ascii_;
};

class WordSplitter {
 public:
  explicit WordSplitter(PreTokenizer rules) : rules_(rules), classes_(rules.split_digits) {
    for (char32_t c = 0; c < ascii_.size(); ++c) ascii_[c] = classes_[c];
  }

  const CharacterClasses& classes() const { return classes_; }

  // Calls visit(std::string_view) for each word; the words joined are the text. Thread-safe.
  template <class Visitor>
  void for_each_word(std::string_view text, Visitor&& visit) const {
    WordScanner scanner(text, classes_, ascii_);
    const auto run = [&](auto next) {
      while (!scanner.done()) visit((scanner.*next)());
    };
    switch (rules_.pattern) {
      case WordPattern::kGpt2:
        return rules_.split_digits ? run(&WordScanner::next_gpt2<true>) : run(&WordScanner::next_gpt2<false>);
      case WordPattern::kLlama3:
        return run(&WordScanner::next_llama3<3>);
      case WordPattern::kQwen2:
        return run(&WordScanner::next_llama3<1>);
    }
  }

 private:
  PreTokenizer rules_;
  CharacterClasses classes_;
  WordScanner::AsciiClasses ascii_{};
};

}  // namespace stableqat
