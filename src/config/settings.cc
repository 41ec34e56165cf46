// Where settings come from: YAML files and command lines.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <optional>

#include "stableqat/base/error.h"
#include "stableqat/base/file.h"
#include "stableqat/config/field.h"

namespace stableqat {

namespace {

std::string at_line(const std::string& file, const YAML::Mark& mark) {
  return mark.is_null() ? file : file + ":" + std::to_string(mark.line + 1);
}

std::vector<YAML::Node> parse_file(const std::string& text, const std::string& file) {
  try {
    return YAML::LoadAll(text);
  } catch (const YAML::Exception& error) {
    throw ConfigError({at_line(file, error.mark), "malformed YAML: " + error.msg, "", ""});
  }
}

YAML::Node parse_list(const std::string& text, const std::string& flag) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw ConfigError({flag, "'" + text + "'", "a list like [a, b]", error.msg});
  }
}

// {path: P, weight: W} as "P=W"; nothing for other maps.
std::optional<std::string> weighted_path(const YAML::Node& map) {
  if (!map.IsMap() || map.size() != 2 || !map["path"] || !map["weight"]) return std::nullopt;
  if (!map["path"].IsScalar() || !map["weight"].IsScalar()) return std::nullopt;
  return map["path"].Scalar() + "=" + map["weight"].Scalar();
}

Setting leaf(const YAML::Node& node, std::string name, std::string where) {
  Setting setting{.name = std::move(name), .where = std::move(where)};
  if (node.IsScalar()) {
    setting.values.push_back(node.Scalar());
    return setting;
  }
  setting.is_list = true;
  for (const YAML::Node& item : node) {
    const std::optional<std::string> text = item.IsScalar() ? std::optional(item.Scalar()) : weighted_path(item);
    if (!text) {
      throw ConfigError({setting.where.empty() ? "--" + setting.name : setting.where + ": " + setting.name,
                         "a list with nested or empty items",
                         item.IsMap() ? "a list of plain values, or of {path: P, weight: W} in a mixture" : "a list of plain values", ""});
    }
    setting.values.push_back(*text);
  }
  return setting;
}

class YamlReader {
 public:
  YamlReader(const std::string& file, std::span<const std::string> known) : file_(file), known_(known) {}

  void read_map(const YAML::Node& map, const std::string& prefix) {
    for (const auto& entry : map) {
      const std::string where = at_line(file_, entry.first.Mark());
      if (!entry.first.IsScalar()) throw ConfigError({where, "a key that is a list or a map", "a name", ""});
      read_entry(prefix + entry.first.Scalar(), entry.second, where);
    }
  }

  std::vector<Setting> settings;

 private:
  void read_entry(const std::string& name, const YAML::Node& value, const std::string& where) {
    const bool is_section =
        std::any_of(known_.begin(), known_.end(), [&](const std::string& known) { return known.starts_with(name + "."); });
    if (is_section && !std::count(sections_.begin(), sections_.end(), name)) {
      sections_.push_back(name);
    } else if (is_section) {
      throw ConfigError({where, "section '" + name + "' for the second time", "", "merge the two"});
    }
    const bool is_name = std::find(known_.begin(), known_.end(), name) != known_.end();
    if (!is_name && !is_section) {
      settings.push_back({.name = name, .where = where});  // apply_settings reports it, with the nearest known name
      return;
    }
    if (value.IsNull()) return;
    if (is_section && value.IsMap()) return read_map(value, name + ".");
    if (is_section && value.IsSequence() && std::count(known_.begin(), known_.end(), name + ".mixture") > 0) {
      settings.push_back(leaf(value, name + ".mixture", where));
      return;
    }
    if (!is_name) throw ConfigError({where, "a plain value for the section '" + name + "'", "keys below it, indented", ""});
    if (value.IsMap()) throw ConfigError({where, "keys below '" + name + "'", "a value", ""});
    settings.push_back(leaf(value, name, where));
  }

  const std::string& file_;
  std::span<const std::string> known_;
  std::vector<std::string> sections_;
};

}  // namespace

std::vector<Setting> settings_from_yaml(const std::filesystem::path& path, std::span<const std::string> known) {
  const std::string file = path.string();
  const std::vector<YAML::Node> documents = parse_file(read_text_file(path), file);
  if (documents.size() > 1) {
    throw ConfigError({file, std::to_string(documents.size()) + " YAML documents", "one", "remove the lines `---`"});
  }
  if (documents.empty() || documents.front().IsNull()) return {};
  if (!documents.front().IsMap()) {
    throw ConfigError({at_line(file, documents.front().Mark()), "no keys", "lines of the form `key: value`", ""});
  }
  YamlReader reader(file, known);
  reader.read_map(documents.front(), "");
  return std::move(reader.settings);
}

std::vector<Setting> settings_from_arguments(std::span<const std::string> arguments) {
  std::vector<Setting> settings;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!argument.starts_with("--") || argument.size() == 2) throw ConfigError({argument, "a stray argument", "--some.key value", ""});
    const std::size_t equals = argument.find('=');
    std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--")) {
      value = arguments[++i];
    } else {
      throw ConfigError({argument, "no value", argument + " VALUE", ""});
    }
    if (value.starts_with('[') && value.ends_with(']')) {
      const YAML::Node list = parse_list(value, "--" + name);
      settings.push_back(leaf(list, std::move(name), ""));
    } else {
      settings.push_back({.name = std::move(name), .where = "", .values = {std::move(value)}});
    }
  }
  return settings;
}

}  // namespace stableqat
