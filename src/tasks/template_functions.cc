#include "tasks/template_functions.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>

#include "tasks/unicode_text.h"

namespace stableqat::tasks {

namespace {

using nlohmann::json;
using Arguments = std::span<const json>;

// Longest text that replace() may make: templates cannot exhaust memory.
constexpr std::size_t kMaxText = std::size_t{1} << 24;

const std::string& as_string(const json& value, const char* function) {
  if (!value.is_string()) throw TemplateProblem{kind_of(value), std::string("a string for ") + function + "()", ""};
  return value.get_ref<const std::string&>();
}

json call_strip(const json& self, Arguments) { return strip(as_string(self, "strip")); }
json call_lstrip(const json& self, Arguments) { return strip_left(as_string(self, "lstrip")); }
json call_rstrip(const json& self, Arguments) { return strip_right(as_string(self, "rstrip")); }
json call_lower(const json& self, Arguments) { return lower(as_string(self, "lower")); }
json call_upper(const json& self, Arguments) { return upper(as_string(self, "upper")); }
json call_capitalize(const json& self, Arguments) { return capitalize(as_string(self, "capitalize")); }
json call_string(const json& self, Arguments) { return python_text(self); }

json call_replace(const json& self, Arguments arguments) {
  const std::string& text = as_string(self, "replace");
  const std::string& from = as_string(arguments[0], "replace");
  const std::string& to = as_string(arguments[1], "replace");
  if (from.empty()) throw TemplateProblem{"an empty string to replace", "at least one character", ""};
  if (text.size() / from.size() * (to.size() + 1) + text.size() > kMaxText) {
    throw TemplateProblem{"a text that replace() would make too long", "at most 16 MB", ""};
  }
  return replace_all(text, from, to);
}

json call_index(const json& self, Arguments arguments) {
  if (self.is_array()) {
    const auto found = std::find(self.begin(), self.end(), arguments[0]);
    if (found == self.end()) throw TemplateProblem{arguments[0].dump(), "one of " + self.dump(), "check the document's label"};
    return found - self.begin();
  }
  const std::string& text = as_string(self, "index");
  const std::string& part = as_string(arguments[0], "index");
  const std::size_t at = text.find(part);
  if (at == std::string::npos) throw TemplateProblem{"no '" + part + "' in '" + text + "'", "a part of it", ""};
  return count_code_points(std::string_view(text).substr(0, at));
}

json call_length(const json& self, Arguments) {
  if (self.is_array() || self.is_object()) return self.size();
  return count_code_points(as_string(self, "length"));
}

json call_int(const json& self, Arguments) {
  if (self.is_boolean()) return self.get<bool>() ? 1 : 0;
  if (self.is_number_integer()) return self;
  const std::string_view digits = strip(as_string(self, "int"));
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size()) {
    throw TemplateProblem{"'" + std::string(digits) + "'", "an integer", ""};
  }
  return number;
}

constexpr std::array kFunctions{
    TemplateFunction{"strip", 0, call_strip},
    TemplateFunction{"trim", 0, call_strip},
    TemplateFunction{"lstrip", 0, call_lstrip},
    TemplateFunction{"rstrip", 0, call_rstrip},
    TemplateFunction{"lower", 0, call_lower},
    TemplateFunction{"upper", 0, call_upper},
    TemplateFunction{"capitalize", 0, call_capitalize},
    TemplateFunction{"replace", 2, call_replace},
    TemplateFunction{"index", 1, call_index},
    TemplateFunction{"length", 0, call_length},
    TemplateFunction{"int", 0, call_int},
    TemplateFunction{"string", 0, call_string},
};

}  // namespace

const TemplateFunction* find_template_function(std::string_view name) {
  const auto found = std::find_if(kFunctions.begin(), kFunctions.end(), [name](const TemplateFunction& f) { return f.name == name; });
  return found == kFunctions.end() ? nullptr : &*found;
}

std::vector<std::string_view> template_function_names() {
  std::vector<std::string_view> names;
  for (const TemplateFunction& function : kFunctions) names.push_back(function.name);
  return names;
}

std::string python_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_null()) return "None";
  if (value.is_number()) return value.dump();
  throw TemplateProblem{kind_of(value), "a text or a number", "name a member or an item of it"};
}

std::string kind_of(const json& value) {
  switch (value.type()) {
    case json::value_t::array:
      return "a list";
    case json::value_t::object:
      return "an object";
    case json::value_t::string:
      return "a string";
    case json::value_t::boolean:
      return "a boolean";
    case json::value_t::null:
      return "null";
    case json::value_t::number_float:
      return "a number with a fraction";
    default:
      return "an integer";
  }
}

}  // namespace stableqat::tasks
