// What is written about fields: values as text, the resolved file, the help and the reference page.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "config/field_values.h"

namespace stableqat {

namespace {

std::string_view section(const Field& field) { return field.key.substr(0, field.key.find('.')); }

std::string joined(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (const std::string& part : parts) {
    if (!text.empty()) text += separator;
    text += part;
  }
  return text;
}

std::string default_text(const Field& field) {
  const std::vector<std::string> values = value_texts(field);
  if (values.empty() || values.front().empty()) return "";
  return values.size() == 1 ? values.front() : "[" + joined(values, ", ") + "]";
}

std::string type_and_range(const Field& field) {
  const std::string range = field.range.text();
  return range.empty() ? type_text(field) : type_text(field) + " " + range;
}

// Other names under which the field can be given, with what they mean where that differs.
std::vector<std::string> other_names(const Field& field) {
  std::vector<std::string> names;
  for (const std::string_view alias : field.aliases) names.push_back("`" + std::string(alias) + "`");
  for (const Switch& toggle : field.switches)
    names.push_back("`" + std::string(toggle.key) + ": true` = `" + std::string(toggle.when_true) + "`");
  return names;
}

std::string wrapped(std::string_view text, std::size_t indent, std::size_t width) {
  std::string lines;
  std::size_t column = 0;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (column == 0 || column + 1 + word.size() > width) {
      lines += (column == 0 ? "" : "\n") + std::string(indent, ' ');
      column = indent;
    } else {
      lines += ' ';
      ++column;
    }
    lines += word;
    column += word.size();
  }
  return lines + "\n";
}

}  // namespace

std::string escaped_bars(std::string text) {
  for (std::size_t i = 0; (i = text.find('|', i)) != std::string::npos; i += 2) text.insert(i, 1, '\\');
  return text;
}

std::optional<bool> parse_bool(std::string_view text) {
  constexpr std::array<std::string_view, 6> kTrue{"true", "True", "TRUE", "yes", "Yes", "YES"};
  constexpr std::array<std::string_view, 6> kFalse{"false", "False", "FALSE", "no", "No", "NO"};
  if (std::find(kTrue.begin(), kTrue.end(), text) != kTrue.end()) return true;
  if (std::find(kFalse.begin(), kFalse.end(), text) != kFalse.end()) return false;
  return std::nullopt;
}

std::string number_text(double value) {
  std::array<char, 32> buffer{};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  std::string text(buffer.data(), result.ptr);
  const std::size_t exponent = text.find('e');
  if (exponent == std::string::npos) return text;
  if (text[exponent + 2] == '0') text.erase(exponent + 2, 1);  // e-04
  if (text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

bool is_list(const Field& field) {
  return std::holds_alternative<std::vector<std::string>*>(field.target) || std::holds_alternative<std::vector<double>*>(field.target) ||
         std::holds_alternative<std::vector<WeightedPath>*>(field.target);
}

std::string type_text(const Field& field) {
  return std::visit(Overloaded{[](bool*) { return std::string("true|false"); },                                //
                               [](std::int64_t*) { return std::string("integer"); },                           //
                               [](double*) { return std::string("number"); },                                  //
                               [](std::string*) { return std::string("text"); },                               //
                               [](std::vector<std::string>*) { return std::string("text or list"); },          //
                               [](std::vector<double>*) { return std::string("number or list of numbers"); },  //
                               [](std::vector<WeightedPath>*) { return std::string("list of {path, weight} or PATH=WEIGHT"); },
                               [](const ChoiceTarget& target) { return joined(target.names, "|"); }},
                    field.target);
}

std::vector<std::string> value_texts(const Field& field) {
  using Texts = std::vector<std::string>;
  return std::visit(Overloaded{[](const bool* value) { return Texts{*value ? "true" : "false"}; },       //
                               [](const std::int64_t* value) { return Texts{std::to_string(*value)}; },  //
                               [](const double* value) { return Texts{number_text(*value)}; },           //
                               [](const std::string* value) { return Texts{*value}; },                   //
                               [](const std::vector<std::string>* value) { return *value; },             //
                               [](const std::vector<double>* value) {
                                 Texts texts;
                                 for (const double number : *value) texts.push_back(number_text(number));
                                 return texts;
                               },
                               [](const std::vector<WeightedPath>* value) {
                                 Texts texts;
                                 for (const WeightedPath& item : *value) texts.push_back(item.path + "=" + number_text(item.weight));
                                 return texts;
                               },
                               [](const ChoiceTarget& target) {
                                 const std::size_t i = target.load();
                                 return Texts{i < target.names.size() ? target.names[i] : "a value without a name"};
                               }},
                    field.target);
}

std::string fields_to_yaml(std::span<const Field> fields) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  std::string_view open_section;
  for (const Field& field : fields) {
    if (section(field) != open_section) {
      if (!open_section.empty()) out << YAML::EndMap;
      open_section = section(field);
      out << YAML::Key << std::string(open_section) << YAML::Value << YAML::BeginMap;
    }
    out << YAML::Key << std::string(field.key.substr(open_section.size() + 1)) << YAML::Value;
    const std::vector<std::string> values = value_texts(field);
    if (is_list(field)) {
      out << YAML::Flow << values;
    } else {
      out << values.front();
    }
  }
  out << YAML::EndMap << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

std::string fields_to_help(std::span<const Field> fields) {
  constexpr std::size_t kWidth = 110;
  std::string text;
  for (const Field& field : fields) {
    const std::string start = default_text(field);
    text += "  --" + std::string(field.key) + "  " + type_and_range(field) + (start.empty() ? "" : "  [" + start + "]") + "\n";
    text += wrapped(field.help, 6, kWidth);
  }
  return text;
}

std::string fields_to_markdown(std::span<const Field> fields) {
  std::string text;
  std::string_view open_section;
  for (const Field& field : fields) {
    if (section(field) != open_section) {
      open_section = section(field);
      text +=
          "\n## " + std::string(open_section) + "\n\n| Key | Value | Default | Meaning | Also read as |\n| --- | --- | --- | --- | --- |\n";
    }
    const std::string start = default_text(field);
    text += "| `" + std::string(field.key) + "` | " + escaped_bars(type_and_range(field)) + " | " +
            (start.empty() ? "" : "`" + start + "`") + " | " + escaped_bars(std::string(field.help)) + " | " +
            joined(other_names(field), ", ") + " |\n";
  }
  return text;
}

}  // namespace stableqat
