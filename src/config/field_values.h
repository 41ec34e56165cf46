// Text <-> value of a field.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stableqat/config/field.h"

namespace stableqat {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};

// true, false, yes, no in lower case, upper case or with a capital, as YAML has them; else nothing.
std::optional<bool> parse_bool(std::string_view text);

// Shortest text that reads back to the same value; with a point before an exponent, so that every YAML reader sees a number.
std::string number_text(double value);

// What the field accepts: "integer", "a|b|c", "list of numbers", ...
std::string type_text(const Field& field);

// The field's current value as scalars.
std::vector<std::string> value_texts(const Field& field);

bool is_list(const Field& field);

// For a cell of a Markdown table.
std::string escaped_bars(std::string text);

}  // namespace stableqat
