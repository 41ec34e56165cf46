#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stableqat::tasks {

// Rows of equally many cells as a Markdown table; the first row is the head. `alignment` has one letter a column: l or r.
std::string markdown_table(const std::vector<std::vector<std::string>>& rows, std::string_view alignment);

// With so many digits behind the point.
std::string decimals(double value, int digits = 4);

}  // namespace stableqat::tasks
