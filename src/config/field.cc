#include "stableqat/config/field.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>

#include "config/field_values.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace {

template <class Number>
std::optional<Number> parse_whole(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<double> parse_number(std::string_view text) {
  const std::optional<double> number = parse_whole<double>(text);
  return number && std::isfinite(*number) ? number : std::nullopt;
}

// Also takes 20e9 and 1.0, as long as the value is whole and exact.
std::optional<std::int64_t> parse_integer(std::string_view text) {
  if (const auto integer = parse_whole<std::int64_t>(text)) return integer;
  constexpr double kLargestExact = 9007199254740992.0;  // 2^53
  const std::optional<double> number = parse_number(text);
  if (!number || *number != std::trunc(*number) || std::abs(*number) > kLargestExact) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

std::string location(const Setting& setting) { return setting.where.empty() ? "--" + setting.name : setting.where + ": " + setting.name; }

std::string found_text(const Setting& setting) {
  if (setting.is_list) return "a list";
  return setting.values.empty() ? "no value" : "'" + setting.values.front() + "'";
}

std::string expected_text(const Field& field) {
  const std::string range = field.range.text();
  return range.empty() ? type_text(field) : type_text(field) + " " + range;
}

[[noreturn]] void throw_wrong_value(const Setting& setting, const Field& field, const std::string& found) {
  throw ConfigError({location(setting), found, expected_text(field), ""});
}

// Stores text in fields; one object per setting.
class Store {
 public:
  Store(const Setting& setting, const Field& field) : setting_(setting), field_(field) {}

  void operator()(bool* target) const { *target = parsed(parse_bool, scalar()); }
  void operator()(std::int64_t* target) const { *target = in_range(parsed(parse_integer, scalar())); }
  void operator()(double* target) const { *target = in_range(parsed(parse_number, scalar())); }
  void operator()(std::string* target) const { *target = scalar(); }
  void operator()(std::vector<std::string>* target) const { *target = setting_.values; }
  void operator()(std::vector<double>* target) const {
    std::vector<double> numbers;
    for (const std::string& text : setting_.values) numbers.push_back(in_range(parsed(parse_number, text)));
    *target = std::move(numbers);
  }
  void operator()(std::vector<WeightedPath>* target) const {
    std::vector<WeightedPath> items;
    for (const std::string& text : setting_.values) {
      const std::size_t equals = text.rfind('=');
      if (equals == std::string::npos || equals == 0) throw_wrong_value(setting_, field_, "'" + text + "'");
      items.push_back({text.substr(0, equals), in_range(parsed(parse_number, text.substr(equals + 1)))});
    }
    *target = std::move(items);
  }
  void operator()(const ChoiceTarget& target) const {
    const auto name = std::find(target.names.begin(), target.names.end(), scalar());
    if (name == target.names.end()) {
      const std::string near = scalar().size() > 2 ? nearest_name(scalar(), target.names) : "";
      throw ConfigError({location(setting_), found_text(setting_), type_text(field_), near.empty() ? "" : "did you mean '" + near + "'?"});
    }
    target.store(static_cast<std::size_t>(name - target.names.begin()));
  }

 private:
  const std::string& scalar() const {
    if (setting_.is_list || setting_.values.size() != 1) throw_wrong_value(setting_, field_, found_text(setting_));
    return setting_.values.front();
  }

  template <class T>
  T parsed(std::optional<T> (*parse)(std::string_view), const std::string& text) const {
    const std::optional<T> value = parse(text);
    if (!value) throw_wrong_value(setting_, field_, "'" + text + "'");
    return *value;
  }

  template <class Number>
  Number in_range(Number number) const {
    if (!field_.range.contains(static_cast<double>(number))) throw_wrong_value(setting_, field_, number_text(static_cast<double>(number)));
    return number;
  }

  const Setting& setting_;
  const Field& field_;
};

// What a name stands for: exactly one of the three, or nothing.
struct Meaning {
  const Field* field = nullptr;
  const Switch* toggle = nullptr;  // of `field`
  bool is_foreign = false;
};

std::map<std::string_view, Meaning> dictionary(std::span<const Field> fields, std::span<const ForeignKey> foreign) {
  std::map<std::string_view, Meaning> meanings;
  for (const Field& field : fields) {
    meanings[field.key] = {.field = &field};
    for (const std::string_view alias : field.aliases) meanings[alias] = {.field = &field};
    for (const Switch& toggle : field.switches) meanings[toggle.key] = {.field = &field, .toggle = &toggle};
  }
  for (const ForeignKey& key : foreign) meanings[key.key] = {.is_foreign = true};
  return meanings;
}

std::string_view last_part(std::string_view name) { return name.substr(name.rfind('.') + 1); }

[[noreturn]] void throw_unknown(const Setting& setting, const std::map<std::string_view, Meaning>& meanings) {
  std::vector<std::string_view> names;
  std::string near;
  for (const auto& [name, meaning] : meanings) {
    names.push_back(name);
    names.push_back(name.substr(0, name.find('.')));
    // The right name in the wrong section, or without one.
    if (last_part(name) == last_part(setting.name)) near = name;
  }
  if (near.empty()) near = nearest_name(setting.name, names);
  const std::string remedy = near.empty() ? "see docs/configuration.md for all keys" : "did you mean '" + near + "'?";
  if (setting.where.empty()) throw ConfigError({"--" + setting.name, "an unknown flag", "", remedy});
  throw ConfigError({setting.where, "unknown key '" + setting.name + "'", "", remedy});
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

bool is_accepted(const Setting& setting, const ForeignKey& key) {
  return !setting.values.empty() && std::all_of(setting.values.begin(), setting.values.end(), [&key](const std::string& value) {
    return std::find(key.accepted.begin(), key.accepted.end(), lower(value)) != key.accepted.end();
  });
}

}  // namespace

bool Range::contains(double value) const { return (above_min ? value > min : value >= min) && (below_max ? value < max : value <= max); }

std::string Range::text() const {
  const std::string low = std::isfinite(min) ? (above_min ? "> " : ">= ") + number_text(min) : "";
  const std::string high = std::isfinite(max) ? (below_max ? "< " : "<= ") + number_text(max) : "";
  return low.empty() || high.empty() ? low + high : low + " and " + high;
}

std::vector<std::string> known_names(std::span<const Field> fields, std::span<const ForeignKey> foreign) {
  std::vector<std::string> names;
  for (const auto& [name, meaning] : dictionary(fields, foreign)) names.emplace_back(name);
  return names;
}

std::set<std::string_view> apply_settings(std::span<const Setting> settings, std::span<const Field> fields,
                                          std::span<const ForeignKey> foreign) {
  const std::map<std::string_view, Meaning> meanings = dictionary(fields, foreign);
  std::map<std::string_view, const Setting*> givers;  // by field key, or by name for foreign keys
  std::vector<std::pair<const Field*, Setting>> weak;
  for (const Setting& setting : settings) {
    const auto found = meanings.find(setting.name);
    if (found == meanings.end()) throw_unknown(setting, meanings);
    const auto& [field, toggle, is_foreign] = found->second;

    Setting stored = setting;
    if (toggle != nullptr) {
      bool is_on = false;
      const Field toggle_row{.key = toggle->key, .target = &is_on};
      std::visit(Store(setting, toggle_row), toggle_row.target);
      stored.values = {std::string(is_on ? toggle->when_true : toggle->when_false)};
      if (!is_on) {
        if (!toggle->when_false.empty()) weak.emplace_back(field, std::move(stored));
        continue;
      }
    }
    const auto [giver, is_first] = givers.emplace(is_foreign ? found->first : field->key, &setting);
    if (!is_first) {
      const std::string meant = giver->first == setting.name ? "" : " for '" + std::string(giver->first) + "'";
      throw ConfigError({location(setting), "a second value" + meant + ", after '" + giver->second->name + "'", "", "keep one of them"});
    }
    if (field != nullptr) std::visit(Store(stored, *field), field->target);
  }
  std::set<std::string_view> given;
  for (const auto& [key, giver] : givers) given.insert(key);
  for (const auto& [field, setting] : weak) {
    if (!given.contains(field->key)) std::visit(Store(setting, *field), field->target);
  }
  return given;
}

void check_foreign(std::span<const Setting> settings, std::span<const ForeignKey> foreign, std::vector<std::string>& notices) {
  for (const Setting& setting : settings) {
    const auto key = std::find_if(foreign.begin(), foreign.end(), [&setting](const ForeignKey& row) { return row.key == setting.name; });
    if (key == foreign.end()) continue;
    if (key->remedy.empty()) {
      notices.push_back(location(setting) + ": not used here");
    } else if (!is_accepted(setting, *key)) {
      throw ConfigError({location(setting), found_text(setting), "", std::string(key->remedy)});
    }
  }
}

void check_ranges(std::span<const Field> fields) {
  for (const Field& field : fields) {
    // Storing the text of a value checks it like one that was read.
    const Setting setting{
        .name = std::string(field.key), .where = "configuration", .values = value_texts(field), .is_list = is_list(field)};
    std::visit(Store(setting, field), field.target);
  }
}

}  // namespace stableqat
