// Numbers of JSON files that a user may have edited.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace stableqat::hub {

// Throws for a missing key and for what is not a whole number from 0 on; json's own get() would convert negative and fractional ones.
inline std::uint64_t count_at(const nlohmann::json& object, const char* key) {
  const nlohmann::json& value = object.at(key);
  if (!value.is_number_unsigned()) throw std::invalid_argument("\"" + std::string(key) + "\": " + value.dump());
  return value.get<std::uint64_t>();
}

}  // namespace stableqat::hub
