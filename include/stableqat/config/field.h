// The table of a config struct: one row per field gives its YAML key, flag, help, reference page and resolved dump.
//
// A struct S joins by one function that returns its rows, bound to a given object:
//   std::vector<Field> fields(S& config) { return {{.key = "train.max_steps", .target = &config.train.max_steps, .help = "..."}, ...}; }
// Defaults are those of the struct: the pages print the rows of a fresh S.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace stableqat {

// Bounds of a number, both inclusive unless `above_min`/`below_max`.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;
  bool below_max = false;

  bool contains(double value) const;
  std::string text() const;  // "> 0", "0 to 1", ...; "" when unbounded
};

inline constexpr Range kPositive{.min = 0.0, .above_min = true};
inline constexpr Range kNotNegative{.min = 0.0};
inline constexpr Range kAtLeastOne{.min = 1.0};
inline constexpr Range kShare{.min = 0.0, .max = 1.0};

// A spelling of one value of an enum (or of a number that allows only some values). The first spelling of a value is the one written.
template <class T>
struct Spelling {
  std::string_view name;
  T value;
};

// A field that takes one of a few names. Made by one_of(); refers to the field, not to the spellings.
struct ChoiceTarget {
  std::vector<std::string> names;
  std::function<void(std::size_t)> store;  // by index into names
  std::function<std::size_t()> load;
};

template <class T>
ChoiceTarget one_of(T& field, std::vector<Spelling<T>> spellings) {
  ChoiceTarget target;
  for (const auto& spelling : spellings) target.names.emplace_back(spelling.name);
  target.load = [&field, spellings] {
    std::size_t i = 0;
    while (i < spellings.size() && spellings[i].value != field) ++i;
    return i;  // names.size() for a value without a name
  };
  target.store = [&field, spellings = std::move(spellings)](std::size_t i) { field = spellings[i].value; };
  return target;
}

// A path with a weight, relative to those of the other items of its list. Written {path: P, weight: W} or "P=W".
struct WeightedPath {
  std::string path;
  double weight = 1.0;

  bool operator==(const WeightedPath&) const = default;
};

// A boolean key that stands for values of another field ("bf16: true" for "precision: bfloat16").
// False is weak: it gives `when_false` ("" = nothing) only where nothing else in the same file or command line speaks of the field.
struct Switch {
  std::string_view key;
  std::string_view when_true;
  std::string_view when_false = {};
};

struct Field {
  using Target = std::variant<bool*, std::int64_t*, double*, std::string*, std::vector<std::string>*, std::vector<double>*,
                              std::vector<WeightedPath>*, ChoiceTarget>;

  std::string_view key;  // "section.name"
  Target target = static_cast<bool*>(nullptr);
  std::string_view help = {};                  // one sentence: meaning, unit, the value that disables it
  Range range = {};                            // of a number, or of each number in a list
  std::vector<std::string_view> aliases = {};  // other names of the same concept
  std::vector<Switch> switches = {};
};

// A key of another program's files that has no field here. Without a remedy any value is read and has no effect; else a value that is not
// `accepted` would change the result and is an error.
struct ForeignKey {
  std::string_view key;
  std::string_view remedy = {};                 // what to do instead
  std::vector<std::string_view> accepted = {};  // values, in lower case, that say what happens here anyway
};

// One key as it was given: by a file ("where" = FILE:LINE) or by a flag ("where" empty).
struct Setting {
  std::string name;
  std::string where;
  std::vector<std::string> values = {};  // scalars as text
  bool is_list = false;
};

// The keys and values of a YAML file of nested maps, in order, with full names; keys without a value are left out. `known` are all names
// that the reader understands: maps are entered only where a known name lies inside. A list in place of a section that has a key "mixture"
// is that key's value. Throws ConfigError, DataError.
std::vector<Setting> settings_from_yaml(const std::filesystem::path& path, std::span<const std::string> known);

// "--name value" and "--name=value" pairs; a value "[a, b]" is a list. Throws ConfigError.
std::vector<Setting> settings_from_arguments(std::span<const std::string> arguments);

// All names that the rows and foreign keys understand.
std::vector<std::string> known_names(std::span<const Field> fields, std::span<const ForeignKey> foreign);

// Stores `settings` in the fields; returns the keys of the fields that were given (weak switches not counted).
// Foreign keys are not judged, see check_foreign. Throws ConfigError: unknown name, wrong type, out of range, a field given twice.
std::set<std::string_view> apply_settings(std::span<const Setting> settings, std::span<const Field> fields,
                                          std::span<const ForeignKey> foreign);

// Adds a notice for each foreign key without effect among `settings`. Throws ConfigError for values that would change the result.
void check_foreign(std::span<const Setting> settings, std::span<const ForeignKey> foreign, std::vector<std::string>& notices);

// Throws ConfigError when a value (of a struct filled by code) is outside its row's range.
void check_ranges(std::span<const Field> fields);

std::string fields_to_yaml(std::span<const Field> fields);
std::string fields_to_help(std::span<const Field> fields);
std::string fields_to_markdown(std::span<const Field> fields);

}  // namespace stableqat
