#include "tasks/markdown.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace stableqat::tasks {

std::string markdown_table(const std::vector<std::vector<std::string>>& rows, std::string_view alignment) {
  std::vector<std::size_t> widths(alignment.size(), 1);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  const auto add_row = [&](const std::vector<std::string>& row) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      text += "|" + (alignment[i] == 'r' ? padding + row[i] : row[i] + padding);
    }
    text += "|\n";
  };
  add_row(rows.front());
  for (std::size_t i = 0; i < widths.size(); ++i) text += "|" + std::string(widths[i] - 1, '-') + (alignment[i] == 'r' ? ":" : "-");
  text += "|\n";
  for (std::size_t i = 1; i < rows.size(); ++i) add_row(rows[i]);
  return text;
}

std::string decimals(double value, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

}  // namespace stableqat::tasks
