#include "io/strict_json.h"

#include <set>
#include <vector>

#include "stableqat/base/error.h"

namespace stableqat::io {

nlohmann::json parse_strict_json(std::string_view text, const std::string& where, int max_depth) {
  using Event = nlohmann::json::parse_event_t;
  const char* const kRemedy = "the file is damaged; get it again";
  std::vector<std::set<std::string>> open_objects;
  const auto check = [&](int depth, Event event, nlohmann::json& value) {
    if (depth >= max_depth && (event == Event::object_start || event == Event::array_start)) {
      throw DataError({where, "JSON nested deeper than " + std::to_string(max_depth), "a flat table", kRemedy});
    }
    if (event == Event::object_start) open_objects.emplace_back();
    if (event == Event::object_end) open_objects.pop_back();
    if (event == Event::key && !open_objects.back().insert(value.get<std::string>()).second) {
      throw DataError({where, "\"" + value.get<std::string>() + "\" a second time", "unique names", kRemedy});
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text, check);
  } catch (const nlohmann::json::parse_error& error) {
    throw DataError({where, "invalid JSON at byte " + std::to_string(error.byte), "JSON in UTF-8", kRemedy});
  } catch (const nlohmann::json::exception& error) {
    throw DataError({where, error.what(), "JSON in UTF-8", kRemedy});
  }
}

}  // namespace stableqat::io
