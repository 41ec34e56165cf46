// The functions that templates may call.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace stableqat::tasks {

// Why an expression has no value; the template adds where.
struct TemplateProblem {
  std::string found;
  std::string expected;
  std::string remedy;
};

struct TemplateFunction {
  std::string_view name;
  std::size_t arguments;
  // Throws TemplateProblem.
  nlohmann::json (*call)(const nlohmann::json& self, std::span<const nlohmann::json> arguments);
};

// nullptr for an unknown name.
const TemplateFunction* find_template_function(std::string_view name);
std::vector<std::string_view> template_function_names();

// What str() of Python gives. Throws TemplateProblem for lists and objects.
std::string python_text(const nlohmann::json& value);

// "an integer", "a list", ...
std::string kind_of(const nlohmann::json& value);

}  // namespace stableqat::tasks
