#include "stableqat/base/error.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace stableqat {

namespace {

std::string one_line(const ErrorText& text) {
  std::string line = text.where;
  const auto append = [&line](std::string_view separator, std::string_view lead, const std::string& part) {
    if (part.empty()) return;
    if (!line.empty()) line += separator;
    line += lead;
    line += part;
  };
  append(": ", "found ", text.found);
  append(", ", "expected ", text.expected);
  append("; ", "", text.remedy);
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return line;
}

}  // namespace

Error::Error(ExitCode exit_code, ErrorText text) : std::runtime_error(one_line(text)), exit_code_(exit_code), text_(std::move(text)) {}

namespace detail {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substitute = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace detail
}  // namespace stableqat
