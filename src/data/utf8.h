#pragma once

#include <cstddef>
#include <string_view>

namespace stableqat {

// Byte offset of the first ill-formed UTF-8 sequence (Unicode, table 3-7), or npos.
std::size_t find_invalid_utf8(std::string_view text) noexcept;

}  // namespace stableqat
