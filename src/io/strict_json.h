// JSON of untrusted files: no duplicate keys, no deep nesting, errors of our own type.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace stableqat::io {

// Throws DataError, naming `where`, for text that is not JSON in UTF-8, that names a key twice in one object, or that nests deeper than
// `max_depth` arrays and objects.
nlohmann::json parse_strict_json(std::string_view text, const std::string& where, int max_depth);

}  // namespace stableqat::io
