#include "stableqat/chat/chat_template.h"

#include <algorithm>
#include <ctime>
#include <utility>
#include <vector>

#include "chat/functions.h"
#include "chat/syntax.h"
#include "stableqat/base/error.h"

namespace stableqat {

namespace chat {
namespace {

constexpr std::size_t kMaxSource = std::size_t{1} << 20;
constexpr std::size_t kMaxResult = std::size_t{16} << 20;

// What a statement asks its loop to do.
enum class Flow { kGoOn, kBreak, kContinue };

std::string date_text(std::chrono::system_clock::time_point now, const std::string& format) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  if (format.empty()) return "";
  if (format.size() > 256) throw TemplateProblem{"a date format of " + std::to_string(format.size()) + " bytes", "at most 256"};
  std::string text(8192, '\0');
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &parts));
  return text;
}

class Renderer {
 public:
  Renderer(Members variables, std::chrono::system_clock::time_point now) : now_(now) { scopes_.push_back(std::move(variables)); }

  std::string run(const Body& body) {
    render(body);
    return std::move(out_);
  }

  // Of the statement at work.
  int line() const { return line_; }

 private:
  // ---- Statements

  Flow render(const Body& body) {
    for (const Statement& statement : body) {
      budget_.step();
      line_ = statement.line;
      if (const Flow flow = render(statement); flow != Flow::kGoOn) return flow;
    }
    return Flow::kGoOn;
  }

  Flow render(const Statement& statement) {
    switch (statement.kind) {
      case Statement::Kind::kText:
        write(statement.text);
        break;
      case Statement::Kind::kOutput:
        write(evaluate(statement.expressions[0]).text(budget_));
        break;
      case Statement::Kind::kIf:
        return render_if(statement);
      case Statement::Kind::kFor:
        return render_for(statement);
      case Statement::Kind::kSet:
        assign(statement.targets, evaluate(statement.expressions[0]));
        break;
      case Statement::Kind::kSetBlock:
        return render_set_block(statement);
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kGoOn;
  }

  void write(const std::string& text) {
    if (text.size() > kMaxResult - out_.size()) throw TemplateProblem{"a text above 16 MB", "a shorter conversation"};
    out_ += text;
  }

  Flow render_if(const Statement& statement) {
    for (std::size_t i = 0; i < statement.bodies.size(); ++i) {
      if (i >= statement.expressions.size() || evaluate(statement.expressions[i]).truth()) return render(statement.bodies[i]);
    }
    return Flow::kGoOn;
  }

  Flow render_set_block(const Statement& statement) {
    std::string outside = std::exchange(out_, {});
    scopes_.emplace_back();
    const Flow flow = render(statement.bodies[0]);
    scopes_.pop_back();
    std::string inside = std::exchange(out_, std::move(outside));
    if (flow != Flow::kGoOn) return flow;
    budget_.text(inside.size());
    assign(statement.targets, Value::string(std::move(inside)));
    return Flow::kGoOn;
  }

  Flow render_for(const Statement& statement) {
    List values = evaluate(statement.expressions[0]).elements(budget_);
    if (statement.expressions.size() > 1) {
      std::erase_if(values, [&](const Value& value) {
        scopes_.emplace_back();
        assign(statement.targets, value);
        const bool goes = !evaluate(statement.expressions[1]).truth();
        scopes_.pop_back();
        return goes;
      });
    }
    if (values.empty() && statement.bodies.size() > 1) return render(statement.bodies[1]);
    for (std::size_t i = 0; i < values.size(); ++i) {
      budget_.step();
      scopes_.push_back({{"loop", loop_value(values, i)}});
      assign(statement.targets, values[i]);
      const Flow flow = render(statement.bodies[0]);
      scopes_.pop_back();
      if (flow == Flow::kBreak) break;
    }
    return Flow::kGoOn;
  }

  static Value loop_value(const List& values, std::size_t i) {
    const auto at = static_cast<std::int64_t>(i);
    const auto count = static_cast<std::int64_t>(values.size());
    Members members{{"index", Value::integer(at + 1)},        {"index0", Value::integer(at)},
                    {"revindex", Value::integer(count - at)}, {"revindex0", Value::integer(count - at - 1)},
                    {"first", Value::boolean(i == 0)},        {"last", Value::boolean(i + 1 == values.size())},
                    {"length", Value::integer(count)}};
    if (i > 0) members.emplace_back("previtem", values[i - 1]);
    if (i + 1 < values.size()) members.emplace_back("nextitem", values[i + 1]);
    return Value::new_namespace(std::move(members));
  }

  void assign(const std::vector<std::string>& targets, const Value& value) {
    if (targets.size() == 1) return assign(targets[0], value);
    const List values = value.elements(budget_);
    if (values.size() != targets.size()) {
      throw TemplateProblem{std::to_string(values.size()) + " values for " + std::to_string(targets.size()) + " names", "as many"};
    }
    for (std::size_t i = 0; i < targets.size(); ++i) assign(targets[i], values[i]);
  }

  void assign(const std::string& target, const Value& value) {
    const std::size_t dot = target.find('.');
    if (dot == std::string::npos) return put(scopes_.back(), target, value);
    Namespace* space = lookup(target.substr(0, dot)).as_namespace();
    if (space == nullptr) throw TemplateProblem{"'" + target + "' of something that is no namespace", "a namespace"};
    if (value.as_namespace() != nullptr) throw TemplateProblem{"a namespace within a namespace", "another value"};
    put(space->members, target.substr(dot + 1), value);
  }

  static void put(Members& members, const std::string& name, const Value& value) {
    const auto found = std::ranges::find(members, name, &std::pair<std::string, Value>::first);
    if (found != members.end()) {
      found->second = value;
    } else {
      members.emplace_back(name, value);
    }
  }

  Value lookup(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      budget_.step(1 + scope->size() / 16);
      const auto found = std::ranges::find(*scope, name, &std::pair<std::string, Value>::first);
      if (found != scope->end()) return found->second;
    }
    return is_function(name) ? Value::boolean(true) : Value::undefined(name);
  }

  // ---- Expressions

  Value evaluate(const Expression& expression) {
    using Kind = Expression::Kind;
    budget_.step();
    const std::vector<Expression>& operands = expression.operands;
    const auto operand = [&](std::size_t i) { return evaluate(operands[i]); };
    switch (expression.kind) {
      case Kind::kLiteral:
        return expression.literal;
      case Kind::kName:
        return lookup(expression.name);
      case Kind::kMember:
        return member(operand(0), expression.name);
      case Kind::kItem: {
        const Value value = operand(0);
        return item_of(value, operand(1), budget_);
      }
      case Kind::kSlice: {
        const Value value = operand(0);
        return slice_of(value, operand(1), operand(2), operand(3), budget_);
      }
      case Kind::kList:
        return Value::list(evaluate_all(operands, 0));
      case Kind::kDict:
        return dictionary(operands);
      case Kind::kCall:
        return call(expression);
      case Kind::kMethod: {
        const Value self = operand(0);
        return call_method(expression.name, self, arguments_of(expression, 1), budget_);
      }
      case Kind::kFilter: {
        const Value self = operand(0);
        return apply_filter(expression.name, self, arguments_of(expression, 1), budget_);
      }
      case Kind::kTest: {
        const Value self = operand(0);
        return Value::boolean(apply_test(expression.name, self, arguments_of(expression, 1), budget_));
      }
      case Kind::kNot:
        return Value::boolean(!operand(0).truth());
      case Kind::kNegative:
        return arithmetic("-", Value::integer(0), operand(0), budget_);
      case Kind::kBinary: {
        const Value left = operand(0);
        return arithmetic(expression.name, left, operand(1), budget_);
      }
      case Kind::kCompare:
        return comparison(expression);
      case Kind::kAnd:
      case Kind::kOr:
        return shortcut(expression);
      case Kind::kConditional:
        return operand(1).truth() ? operand(0) : operand(2);
    }
    return {};
  }

  List evaluate_all(const std::vector<Expression>& expressions, std::size_t first) {
    List values;
    for (std::size_t i = first; i < expressions.size(); ++i) values.push_back(evaluate(expressions[i]));
    return values;
  }

  // The first operand that decides, or the last.
  Value shortcut(const Expression& expression) {
    Value value;
    for (const Expression& operand : expression.operands) {
      value = evaluate(operand);
      if (value.truth() == (expression.kind == Expression::Kind::kOr)) break;
    }
    return value;
  }

  Value comparison(const Expression& expression) {
    Value left = evaluate(expression.operands[0]);
    std::string_view operators = expression.name;
    for (std::size_t i = 1; i < expression.operands.size(); ++i) {
      const std::size_t end = std::min(operators.find(' '), operators.size());
      Value right = evaluate(expression.operands[i]);
      if (!compare(operators.substr(0, end), left, right)) return Value::boolean(false);
      operators.remove_prefix(std::min(end + 1, operators.size()));
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  bool compare(std::string_view op, const Value& a, const Value& b) {
    if (op == "==") return equal(a, b, budget_);
    if (op == "!=") return !equal(a, b, budget_);
    if (op == "in") return contains(b, a, budget_);
    if (op == "!in") return !contains(b, a, budget_);
    if (op == "<") return less(a, b);
    if (op == ">") return less(b, a);
    return op == "<=" ? !less(b, a) : !less(a, b);
  }

  static Value member(const Value& value, const std::string& name) {
    if (value.is_undefined() || value.is_none()) throw TemplateProblem{"member '" + name + "' of " + value.kind(), "a dictionary"};
    const Value* found = value.find(name);
    return found == nullptr ? Value::undefined(name) : *found;
  }

  Value dictionary(const std::vector<Expression>& operands) {
    Members members;
    for (std::size_t i = 0; i + 1 < operands.size(); i += 2) {
      const Value key = evaluate(operands[i]);
      put(members, key.as_string("a key"), evaluate(operands[i + 1]));
    }
    budget_.step(members.size());
    return Value::dict(std::move(members));
  }

  Arguments arguments_of(const Expression& expression, std::size_t first) {
    Arguments arguments{expression.name, evaluate_all(expression.operands, first), {}};
    for (const auto& [name, value] : expression.keywords) arguments.keywords.emplace_back(name, evaluate(value));
    return arguments;
  }

  static bool is_function(std::string_view name) {
    return name == "range" || name == "namespace" || name == "dict" || name == "raise_exception" || name == "strftime_now";
  }

  Value call(const Expression& expression) {
    const std::string& name = expression.name;
    const Arguments arguments = arguments_of(expression, 0);
    if (name == "raise_exception") {
      throw TemplateProblem{"a conversation that the template refuses: " + arguments.get(0, "message").text(budget_), ""};
    }
    if (name == "strftime_now") {
      arguments.expect(1, 1);
      return Value::string(date_text(now_, arguments.get(0, "format").as_string("strftime_now")));
    }
    if (name == "range") return range(arguments);
    if (name == "namespace" || name == "dict") {
      if (!arguments.values.empty()) throw TemplateProblem{name + "() of a value", "name = value"};
      for (const auto& [member_name, value] : arguments.keywords) {
        if (value.as_namespace() != nullptr) throw TemplateProblem{"a namespace within a " + name, "another value"};
      }
      return name == "dict" ? Value::dict(arguments.keywords) : Value::new_namespace(arguments.keywords);
    }
    throw TemplateProblem{"function '" + name + "'", "namespace, range, dict, raise_exception or strftime_now"};
  }

  Value range(const Arguments& arguments) {
    arguments.expect(1, 3);
    const auto at = [&](std::size_t i) { return arguments.get(i, "").as_integer("range"); };
    const bool from_zero = arguments.values.size() == 1;
    const std::int64_t last = from_zero ? at(0) : at(1);
    const std::int64_t step = arguments.values.size() == 3 ? at(2) : 1;
    if (step == 0) throw TemplateProblem{"range() with step 0", "another step"};
    List values;
    for (std::int64_t i = from_zero ? 0 : at(0); step > 0 ? i < last : i > last;) {
      budget_.step();
      values.push_back(Value::integer(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return Value::list(std::move(values));
  }

  std::chrono::system_clock::time_point now_;
  std::vector<Members> scopes_;
  std::string out_;
  Budget budget_;
  int line_ = 1;
};

// As transformers names them. Tools and documents are there, without a value.
Members variables_of(std::span<const ChatMessage> messages, const ChatSettings& settings) {
  List list;
  for (const ChatMessage& message : messages) {
    list.push_back(Value::dict({{"role", Value::string(message.role)}, {"content", Value::string(message.content)}}));
  }
  Members variables{{"messages", Value::list(std::move(list))},
                    {"tools", Value::none()},
                    {"documents", Value::none()},
                    {"add_generation_prompt", Value::boolean(settings.add_generation_prompt)}};
  for (const auto& [name, text] : {std::pair{"bos_token", &settings.bos_token}, std::pair{"eos_token", &settings.eos_token},
                                   std::pair{"pad_token", &settings.pad_token}}) {
    if (!text->empty()) variables.emplace_back(name, Value::string(*text));
  }
  return variables;
}

}  // namespace
}  // namespace chat

struct ChatTemplate::Parsed {
  chat::Body body;
};

namespace {

[[noreturn]] void fail(const std::string& where, const chat::TemplateProblem& problem, int line) {
  throw DataError(
      {where + ", chat template, line " + std::to_string(problem.line > 0 ? problem.line : line), problem.found, problem.expected, ""});
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, std::string where) : where_(std::move(where)) {
  try {
    if (source.size() > chat::kMaxSource) {
      throw chat::TemplateProblem{"a template of " + std::to_string(source.size()) + " bytes", "at most 1 MB"};
    }
    parsed_ = std::make_shared<const Parsed>(Parsed{chat::parse_template(source)});
  } catch (const chat::TemplateProblem& problem) {
    fail(where_, problem, 1);
  }
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, const ChatSettings& settings) const {
  chat::Renderer renderer(chat::variables_of(messages, settings), settings.now);
  try {
    return renderer.run(parsed_->body);
  } catch (const chat::TemplateProblem& problem) {
    fail(where_, problem, renderer.line());
  }
}

}  // namespace stableqat
