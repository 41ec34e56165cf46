#pragma once

#include <string_view>

namespace stableqat {

// "MAJOR.MINOR.PATCH" of the library that is linked.
std::string_view version() noexcept;

}  // namespace stableqat
