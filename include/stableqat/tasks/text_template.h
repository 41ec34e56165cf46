// Texts with fields of a document in them: the part of Jinja that task files use, and nothing that could run, loop or look outside.
//
//   Question: {{question}}    {{choices.text[0]}}    {{[sol1, sol2]}}    {{support.lstrip()}}    {{answer|int - 1}}
//
// An expression is a field, a member (.name or ["name"]), an item of a list ([2], [-1]), a string or integer, a list of expressions, a sum
// or difference (integers, or + of strings), or a function called as method or filter: strip, trim, lstrip, rstrip, lower, upper,
// capitalize, replace(from, to), index(value), length, int, string.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace stableqat::tasks {

// One document of a data set and where it stands ("FILE:LINE"), for messages.
struct TaskDocument {
  nlohmann::json fields;
  std::string where;
};

// Immutable; copies share the parsed form. Const members are thread-safe.
class TextTemplate {
 public:
  TextTemplate() = default;  // the empty text

  // Throws ConfigError naming `where` ("FILE:LINE: KEY") for syntax outside of the above.
  TextTemplate(std::string_view source, std::string where);

  const std::string& source() const noexcept { return source_; }
  const std::string& where() const noexcept { return where_; }

  // A source that is just the name of a field of `document`, or one {{ expression }} alone, gives the value with its type; any other gives
  // the text. Throws DataError naming template and document for fields that the document lacks and values of the wrong kind.
  nlohmann::json value(const TaskDocument& document) const;

  // value() as text: strings as they are, integers and booleans as Python writes them. Throws DataError also for lists and objects.
  std::string text(const TaskDocument& document) const;

 private:
  struct Piece;

  std::string source_;
  std::string where_;
  std::shared_ptr<const std::vector<Piece>> pieces_;
};

}  // namespace stableqat::tasks
