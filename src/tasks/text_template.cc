#include "stableqat/tasks/text_template.h"

#include <cctype>
#include <charconv>
#include <utility>
#include <variant>
#include <vector>

#include "stableqat/base/error.h"
#include "tasks/template_functions.h"

namespace stableqat::tasks {

namespace {

using nlohmann::json;

// Bounds of what parsing and evaluating put on the stack.
constexpr int kMaxDepth = 32;
constexpr std::size_t kMaxExpression = 2048;

// A node of an expression. `operands` of kMember, kItem and kCall begin with what they are applied to.
struct Expression {
  enum class Kind { kLiteral, kField, kMember, kItem, kList, kCall, kAdd, kSubtract };
  Kind kind = Kind::kLiteral;
  json literal = nullptr;
  std::string name = {};  // of a field or member
  const TemplateFunction* function = nullptr;
  std::vector<Expression> operands = {};
};

bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_name_part(char c) { return is_name_start(c) || std::isdigit(static_cast<unsigned char>(c)) != 0; }

// Recursive descent over the text between {{ and }}.
class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  Expression whole() {
    if (rest_.size() > kMaxExpression) throw TemplateProblem{"an expression that is too long", "at most 2048 bytes", ""};
    Expression result = sum();
    skip_space();
    if (!rest_.empty()) fail("the end of the expression");
    return result;
  }

 private:
  Expression sum() {
    if (++depth_ > kMaxDepth) throw TemplateProblem{"an expression nested too deeply", "at most 32 levels", ""};
    Expression left = filtered();
    for (;;) {
      const bool is_plus = accept("+");
      if (!is_plus && !accept("-")) break;
      left = joined(is_plus ? Expression::Kind::kAdd : Expression::Kind::kSubtract, std::move(left), filtered());
    }
    --depth_;
    return left;
  }

  Expression filtered() {
    Expression value = postfix();
    while (accept("|")) {
      const std::string name = expect_name("the name of a filter");
      value = call(name, std::move(value), accept("("));
    }
    return value;
  }

  Expression postfix() {
    Expression value = primary();
    for (;;) {
      if (accept(".")) {
        const std::string name = expect_name("the name of a member");
        value = accept("(") ? call(name, std::move(value), true) : member(std::move(value), name);
      } else if (accept("[")) {
        value = joined(Expression::Kind::kItem, std::move(value), sum());
        expect("]");
      } else {
        return value;
      }
    }
  }

  Expression primary() {
    skip_space();
    if (rest_.empty()) fail("a field");
    const char c = rest_.front();
    if (accept("[")) return list();
    if (accept("(")) {
      Expression inner = sum();
      expect(")");
      return inner;
    }
    if (c == '"' || c == '\'') return string(c);
    if (c == '-' || std::isdigit(static_cast<unsigned char>(c)) != 0) return integer();
    return Expression{.kind = Expression::Kind::kField, .name = expect_name("a field")};
  }

  Expression list() {
    Expression result{.kind = Expression::Kind::kList};
    while (!accept("]")) {
      result.operands.push_back(sum());
      if (!accept(",")) {
        expect("]");
        break;
      }
    }
    return result;
  }

  Expression string(char quote) {
    std::string text;
    std::size_t i = 1;
    for (; i < rest_.size() && rest_[i] != quote; ++i) {
      if (rest_[i] != '\\') {
        text += rest_[i];
        continue;
      }
      constexpr std::string_view kEscapes = "nt\\'\"";
      constexpr std::string_view kMeanings = "\n\t\\'\"";
      const std::size_t escape = ++i < rest_.size() ? kEscapes.find(rest_[i]) : std::string_view::npos;
      if (escape == std::string_view::npos) fail("one of the escapes \\n \\t \\\\ \\' \\\"");
      text += kMeanings[escape];
    }
    if (i == rest_.size()) fail("the end of the string");
    rest_.remove_prefix(i + 1);
    return Expression{.literal = std::move(text)};
  }

  Expression integer() {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc{}) fail("an integer");
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return Expression{.literal = value};
  }

  static Expression joined(Expression::Kind kind, Expression left, Expression right) {
    Expression result{.kind = kind};
    result.operands.push_back(std::move(left));
    result.operands.push_back(std::move(right));
    return result;
  }

  static Expression member(Expression object, std::string name) {
    Expression result{.kind = Expression::Kind::kMember, .name = std::move(name)};
    result.operands.push_back(std::move(object));
    return result;
  }

  // A call of `name` on `self`; its arguments follow when `has_arguments`, the opening parenthesis behind us.
  Expression call(const std::string& name, Expression self, bool has_arguments) {
    Expression result{.kind = Expression::Kind::kCall, .function = find_template_function(name)};
    if (result.function == nullptr) {
      const std::string near = nearest_name(name, template_function_names());
      throw TemplateProblem{"unknown function '" + name + "'", "",
                            near.empty() ? "see docs/evaluation.md" : "did you mean '" + near + "'?"};
    }
    result.operands.push_back(std::move(self));
    while (has_arguments && !accept(")")) {
      result.operands.push_back(sum());
      if (!accept(",")) {
        expect(")");
        break;
      }
    }
    if (result.operands.size() != result.function->arguments + 1) {
      throw TemplateProblem{std::to_string(result.operands.size() - 1) + " arguments of " + name + "()",
                            std::to_string(result.function->arguments), ""};
    }
    return result;
  }

  void skip_space() {
    while (!rest_.empty() && std::isspace(static_cast<unsigned char>(rest_.front())) != 0) rest_.remove_prefix(1);
  }

  bool accept(std::string_view token) {
    skip_space();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  void expect(std::string_view token) {
    if (!accept(token)) fail("'" + std::string(token) + "'");
  }

  std::string expect_name(const char* what) {
    skip_space();
    if (rest_.empty() || !is_name_start(rest_.front())) fail(what);
    std::size_t length = 1;
    while (length < rest_.size() && is_name_part(rest_[length])) ++length;
    std::string name(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return name;
  }

  [[noreturn]] void fail(const std::string& expected) const {
    throw TemplateProblem{rest_.empty() ? "the end" : "'" + std::string(rest_.substr(0, 16)) + "'", expected, ""};
  }

  std::string_view rest_;
  int depth_ = 0;
};

std::vector<std::string> keys_of(const json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

json named(const json& object, const std::string& name) {
  if (!object.is_object()) throw TemplateProblem{kind_of(object), "an object with the field '" + name + "'", ""};
  if (const auto found = object.find(name); found != object.end()) return *found;
  const std::vector<std::string> keys = keys_of(object);
  std::string list;
  for (const std::string& key : keys) list += (list.empty() ? "" : ", ") + key;
  const std::string near = nearest_name(name, keys);
  throw TemplateProblem{"no field '" + name + "'", "one of " + (list.empty() ? "none" : list),
                        near.empty() ? "" : "did you mean '" + near + "'?"};
}

json item(const json& list, const json& index) {
  if (index.is_string()) return named(list, index.get<std::string>());
  if (!list.is_array() || !index.is_number_integer()) {
    throw TemplateProblem{"[" + kind_of(index) + "] of " + kind_of(list), "[an integer] of a list", ""};
  }
  const auto size = static_cast<std::int64_t>(list.size());
  const auto at = index.get<std::int64_t>();
  const std::int64_t from_start = at < 0 ? at + size : at;
  if (from_start < 0 || from_start >= size) {
    throw TemplateProblem{"item " + std::to_string(at), "one of the list's " + std::to_string(size), ""};
  }
  return list[static_cast<std::size_t>(from_start)];
}

json sum_of(const json& left, const json& right, bool is_plus) {
  if (is_plus && left.is_string() && right.is_string()) return left.get<std::string>() + right.get<std::string>();
  if (!left.is_number_integer() || !right.is_number_integer()) {
    throw TemplateProblem{kind_of(left) + " and " + kind_of(right), is_plus ? "two integers or two strings" : "two integers", ""};
  }
  std::int64_t result = 0;
  const auto a = left.get<std::int64_t>();
  const auto b = right.get<std::int64_t>();
  if (is_plus ? __builtin_add_overflow(a, b, &result) : __builtin_sub_overflow(a, b, &result)) {
    throw TemplateProblem{"a sum beyond 64 bits", "a small integer", ""};
  }
  return result;
}

json evaluate(const Expression& expression, const json& fields) {
  using Kind = Expression::Kind;
  if (expression.kind == Kind::kLiteral) return expression.literal;
  if (expression.kind == Kind::kField) return named(fields, expression.name);
  std::vector<json> values;
  for (const Expression& operand : expression.operands) values.push_back(evaluate(operand, fields));
  switch (expression.kind) {
    case Kind::kMember:
      return named(values[0], expression.name);
    case Kind::kItem:
      return item(values[0], values[1]);
    case Kind::kCall:
      return expression.function->call(values[0], std::span<const json>(values).subspan(1));
    case Kind::kAdd:
    case Kind::kSubtract:
      return sum_of(values[0], values[1], expression.kind == Kind::kAdd);
    default:
      return json(std::move(values));
  }
}

// The end of the expression that `text` begins with: the first "}}" outside of quotes.
std::size_t expression_end(std::string_view text) {
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quote != 0) {
      if (text[i] == '\\') {
        ++i;
      } else if (text[i] == quote) {
        quote = 0;
      }
    } else if (text[i] == '"' || text[i] == '\'') {
      quote = text[i];
    } else if (text.substr(i).starts_with("}}")) {
      return i;
    }
  }
  throw TemplateProblem{"'{{' without its '}}'", "{{ expression }}", ""};
}

bool is_name(std::string_view text) {
  if (text.empty() || !is_name_start(text.front())) return false;
  for (const char c : text) {
    if (!is_name_part(c)) return false;
  }
  return true;
}

}  // namespace

// Plain text, or an expression.
struct TextTemplate::Piece {
  std::variant<std::string, Expression> content;
};

TextTemplate::TextTemplate(std::string_view source, std::string where) : source_(source), where_(std::move(where)) {
  std::vector<Piece> pieces;
  std::string plain;
  const auto end_plain = [&] {
    if (!plain.empty()) pieces.push_back({std::exchange(plain, {})});
  };
  try {
    for (std::string_view rest = source; !rest.empty();) {
      if (rest.starts_with("{%") || rest.starts_with("{#") || rest.starts_with("{{-")) {
        throw TemplateProblem{"'" + std::string(rest.substr(0, 16)) + "'", "text and {{ expressions }} alone", "see docs/evaluation.md"};
      }
      if (!rest.starts_with("{{")) {
        plain += rest.front();
        rest.remove_prefix(1);
        continue;
      }
      end_plain();
      rest.remove_prefix(2);
      const std::size_t end = expression_end(rest);
      pieces.push_back({Parser(rest.substr(0, end)).whole()});
      rest.remove_prefix(end + 2);
    }
  } catch (const TemplateProblem& problem) {
    throw ConfigError({where_, problem.found, problem.expected, problem.remedy});
  }
  end_plain();
  pieces_ = std::make_shared<const std::vector<Piece>>(std::move(pieces));
}

json TextTemplate::value(const TaskDocument& document) const {
  if (!pieces_ || pieces_->empty()) return "";
  try {
    if (is_name(source_) && document.fields.is_object() && document.fields.contains(source_)) return document.fields[source_];
    if (const auto* alone = std::get_if<Expression>(&pieces_->front().content); alone != nullptr && pieces_->size() == 1) {
      return evaluate(*alone, document.fields);
    }
    std::string text;
    for (const Piece& piece : *pieces_) {
      const auto* plain = std::get_if<std::string>(&piece.content);
      text += plain != nullptr ? *plain : python_text(evaluate(std::get<Expression>(piece.content), document.fields));
    }
    return text;
  } catch (const TemplateProblem& problem) {
    throw DataError({where_ + ", for " + document.where, problem.found, problem.expected, problem.remedy});
  }
}

std::string TextTemplate::text(const TaskDocument& document) const {
  const json result = value(document);
  try {
    return python_text(result);
  } catch (const TemplateProblem& problem) {
    throw DataError({where_ + ", for " + document.where, problem.found, problem.expected, problem.remedy});
  }
}

}  // namespace stableqat::tasks
