// Numbers and columns in messages and tables.
#pragma once

#include <cstddef>
#include <string>

namespace stableqat {

// `digits` significant digits, as printf's %g.
std::string number_text(double value, int digits = 3);

// `digits` digits after the point.
std::string fixed_text(double value, int digits);

// Filled up with blanks to `width`.
std::string left_aligned(const std::string& text, std::size_t width);
std::string right_aligned(const std::string& text, std::size_t width);

}  // namespace stableqat
