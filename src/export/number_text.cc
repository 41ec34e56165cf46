#include "export/number_text.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace stableqat {

namespace {

std::string blanks(const std::string& text, std::size_t width) { return std::string(width - std::min(width, text.size()), ' '); }

}  // namespace

std::string number_text(double value, int digits) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.*g", digits, value);
  return text.data();
}

std::string fixed_text(double value, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string left_aligned(const std::string& text, std::size_t width) { return text + blanks(text, width); }

std::string right_aligned(const std::string& text, std::size_t width) { return blanks(text, width) + text; }

}  // namespace stableqat
