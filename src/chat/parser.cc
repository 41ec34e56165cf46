// Precedence of operators as in Jinja's parser: ternary, or, and, not, comparisons, + -, ~, * / // %, **, unary minus, then members, calls,
// filters and tests.
#include <algorithm>
#include <array>
#include <utility>

#include "chat/lexer.h"
#include "chat/syntax.h"

namespace stableqat::chat {

namespace {

using Kind = Expression::Kind;

// Bounds of what parsing, rendering and freeing put on the stack.
constexpr int kMaxNesting = 128;
constexpr int kMaxExpressionDepth = 256;

class Nesting {
 public:
  explicit Nesting(int& depth) : depth_(depth) {
    if (++depth_ > kMaxNesting) throw TemplateProblem{"a template nested too deeply", "at most 128 levels (a bracket counts three)"};
  }
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int& depth_;
};

Expression node(Kind kind, int line, std::string name, std::vector<Expression> operands) {
  Expression result{.kind = kind, .line = line, .name = std::move(name), .operands = std::move(operands)};
  for (const Expression& operand : result.operands) result.depth = std::max(result.depth, operand.depth + 1);
  if (result.depth > kMaxExpressionDepth) throw TemplateProblem{"an expression nested too deeply", "at most 256 levels", line};
  return result;
}

template <class... Operands>
std::vector<Expression> list_of(Operands&&... operands) {
  std::vector<Expression> result;
  (result.push_back(std::forward<Operands>(operands)), ...);
  return result;
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Body whole() {
    Body result = body({});
    if (now().kind != Token::Kind::kEnd) fail("the end of the template");
    return result;
  }

 private:
  const Token& now() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }

  bool accept(std::string_view op) {
    if (!now().is(op)) return false;
    ++at_;
    return true;
  }
  bool accept_name(std::string_view name) {
    if (!now().is_name(name)) return false;
    ++at_;
    return true;
  }
  void expect(std::string_view op) {
    if (!accept(op)) fail("'" + std::string(op) + "'");
  }
  void expect(Token::Kind kind, const char* what) {
    if (now().kind != kind) fail(what);
    take();
  }
  std::string expect_name(const char* what) {
    if (now().kind != Token::Kind::kName) fail(what);
    return take().text;
  }

  [[noreturn]] void fail(const std::string& expected) const {
    const Token& token = now();
    std::string found = "'" + token.text.substr(0, 40) + "'";
    if (token.kind == Token::Kind::kEnd) found = "the end of the template";
    if (token.kind == Token::Kind::kStatementEnd) found = "'%}'";
    if (token.kind == Token::Kind::kOutputEnd) found = "'}}'";
    throw TemplateProblem{found, expected, token.line};
  }

  // ---- Statements

  // Up to {% and one of the names, which is left to the caller, or the end.
  Body body(std::initializer_list<std::string_view> ends) {
    const Nesting nesting(nesting_);
    Body result;
    for (;;) {
      const int line = now().line;
      if (now().kind == Token::Kind::kText) {
        result.push_back({.kind = Statement::Kind::kText, .line = line, .text = take().text});
      } else if (now().kind == Token::Kind::kOutputBegin) {
        take();
        result.push_back({.kind = Statement::Kind::kOutput, .line = line, .expressions = list_of(tuple())});
        expect(Token::Kind::kOutputEnd, "'}}'");
      } else if (now().kind == Token::Kind::kStatementBegin &&
                 std::ranges::none_of(ends, [this](std::string_view end) { return next().is_name(end); })) {
        take();
        statement(line, result);
      } else {
        if (now().kind != Token::Kind::kEnd) return result;
        if (ends.size() > 0) fail("{% " + std::string(*(ends.end() - 1)) + " %}");
        return result;
      }
    }
  }

  void statement(int line, Body& out) {
    const std::string name = expect_name("the name of a statement");
    Statement result{.line = line};
    if (name == "if") {
      if_statement(result);
    } else if (name == "for") {
      ++loops_;
      for_statement(result);
      --loops_;
    } else if (name == "set") {
      set_statement(result);
    } else if ((name == "break" || name == "continue") && loops_ > 0) {
      result.kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      end_statement();
    } else if (name == "generation") {  // marks what the assistant said, for training; the text is the same
      end_statement();
      for (Statement& inner : block("endgeneration")) out.push_back(std::move(inner));
      return;
    } else {
      throw TemplateProblem{"statement '" + name + "'", "if, for, set, break or continue (in a loop), generation", line};
    }
    out.push_back(std::move(result));
  }

  void end_statement() { expect(Token::Kind::kStatementEnd, "'%}'"); }

  // The body up to {% end %}.
  Body block(std::string_view end) {
    Body result = body({end});
    take();
    take();
    end_statement();
    return result;
  }

  void if_statement(Statement& result) {
    result.kind = Statement::Kind::kIf;
    std::string branch = "if";
    while (branch != "endif") {
      if (branch != "else") result.expressions.push_back(tuple());
      end_statement();
      result.bodies.push_back(branch == "else" ? body({"endif"}) : body({"elif", "else", "endif"}));
      take();
      branch = take().text;
    }
    end_statement();
  }

  void for_statement(Statement& result) {
    result.kind = Statement::Kind::kFor;
    result.targets = targets();
    if (!accept_name("in")) fail("'in'");
    result.expressions.push_back(disjunction());
    if (accept_name("if")) result.expressions.push_back(expression());
    end_statement();
    result.bodies.push_back(body({"else", "endfor"}));
    take();
    if (take().text == "else") {
      end_statement();
      result.bodies.push_back(block("endfor"));
    } else {
      end_statement();
    }
  }

  void set_statement(Statement& result) {
    result.targets = targets();
    if (accept("=")) {
      result.kind = Statement::Kind::kSet;
      result.expressions.push_back(tuple());
      end_statement();
      return;
    }
    if (result.targets.size() != 1) fail("'='");
    result.kind = Statement::Kind::kSetBlock;
    end_statement();
    result.bodies.push_back(block("endset"));
  }

  std::vector<std::string> targets() {
    std::vector<std::string> result;
    const bool in_brackets = accept("(");
    do {
      std::string name = expect_name("the name of a variable");
      if (accept(".")) name += "." + expect_name("the name of a member");
      result.push_back(std::move(name));
    } while (accept(","));
    if (in_brackets) expect(")");
    return result;
  }

  // ---- Expressions

  // a, b without brackets is a list.
  Expression tuple() {
    const int line = now().line;
    Expression first = expression();
    if (!now().is(",")) return first;
    std::vector<Expression> values = list_of(std::move(first));
    while (accept(",")) values.push_back(expression());
    return node(Kind::kList, line, "", std::move(values));
  }

  Expression expression() {
    const Nesting nesting(nesting_);
    const int line = now().line;
    Expression value = disjunction();
    while (accept_name("if")) {
      Expression condition = disjunction();
      Expression otherwise = accept_name("else") ? expression() : Expression{.line = line};
      value = node(Kind::kConditional, line, "", list_of(std::move(value), std::move(condition), std::move(otherwise)));
    }
    return value;
  }

  Expression disjunction() {
    const int line = now().line;
    std::vector<Expression> operands = list_of(conjunction());
    while (accept_name("or")) operands.push_back(conjunction());
    return operands.size() == 1 ? std::move(operands[0]) : node(Kind::kOr, line, "", std::move(operands));
  }

  Expression conjunction() {
    const int line = now().line;
    std::vector<Expression> operands = list_of(negation());
    while (accept_name("and")) operands.push_back(negation());
    return operands.size() == 1 ? std::move(operands[0]) : node(Kind::kAnd, line, "", std::move(operands));
  }

  Expression negation() {
    const Nesting nesting(nesting_);
    const int line = now().line;
    if (!accept_name("not")) return comparison();
    return node(Kind::kNot, line, "", list_of(negation()));
  }

  // a < b < c compares a with b and b with c.
  Expression comparison() {
    const int line = now().line;
    std::vector<Expression> operands = list_of(sum());
    std::string operators;
    for (;;) {
      std::string op;
      if (now().kind == Token::Kind::kOperator && is_comparison(now().text)) {
        op = take().text;
      } else if (now().is_name("in") || (now().is_name("not") && next().is_name("in"))) {
        op = accept_name("not") ? "!in" : "in";
        take();
      } else {
        break;
      }
      operators += (operators.empty() ? "" : " ") + op;
      operands.push_back(sum());
    }
    return operands.size() == 1 ? std::move(operands[0]) : node(Kind::kCompare, line, std::move(operators), std::move(operands));
  }

  static bool is_comparison(std::string_view op) {
    constexpr std::array<std::string_view, 6> kComparisons{"==", "!=", "<", "<=", ">", ">="};
    return std::ranges::find(kComparisons, op) != kComparisons.end();
  }

  // Operands of one precedence, from left to right.
  template <class Operand>
  Expression chain(std::initializer_list<std::string_view> operators, Operand operand) {
    Expression left = operand();
    while (now().kind == Token::Kind::kOperator && std::ranges::find(operators, now().text) != operators.end()) {
      const Token op = take();
      left = node(Kind::kBinary, op.line, op.text, list_of(std::move(left), operand()));
    }
    return left;
  }

  Expression sum() {
    return chain({"+", "-"}, [this] { return concatenation(); });
  }
  Expression concatenation() {
    return chain({"~"}, [this] { return product(); });
  }
  Expression product() {
    return chain({"*", "/", "//", "%"}, [this] { return power(); });
  }
  Expression power() {
    return chain({"**"}, [this] { return filtered(); });
  }

  Expression filtered() {
    Expression value = unary();
    for (;;) {
      const int line = now().line;
      if (accept("|")) {
        std::string name = expect_name("the name of a filter");
        const bool has_arguments = accept("(");
        value = call(Kind::kFilter, line, std::move(name), list_of(std::move(value)), has_arguments);
      } else if (accept_name("is")) {
        value = test(line, std::move(value));
      } else {
        return value;
      }
    }
  }

  Expression test(int line, Expression value) {
    const bool negated = accept_name("not");
    std::string name = now().kind == Token::Kind::kName || now().kind == Token::Kind::kOperator ? take().text : "";
    Expression result;
    if (accept("(")) {
      result = call(Kind::kTest, line, std::move(name), list_of(std::move(value)), true);
    } else {
      std::vector<Expression> operands = list_of(std::move(value));
      if (starts_operand()) operands.push_back(postfix());
      result = node(Kind::kTest, line, std::move(name), std::move(operands));
    }
    return negated ? node(Kind::kNot, line, "", list_of(std::move(result))) : std::move(result);
  }

  // A test's only argument may stand without brackets.
  bool starts_operand() const {
    const Token& token = now();
    if (token.kind == Token::Kind::kName) {
      constexpr std::array<std::string_view, 8> kOperators{"else", "or", "and", "is", "if", "in", "not", "recursive"};
      return std::ranges::find(kOperators, token.text) == kOperators.end();
    }
    return token.kind == Token::Kind::kInteger || token.kind == Token::Kind::kNumber || token.kind == Token::Kind::kString ||
           token.is("[") || token.is("{");
  }

  Expression unary() {
    const Nesting nesting(nesting_);
    const int line = now().line;
    if (accept("-")) return node(Kind::kNegative, line, "", list_of(unary()));
    if (accept("+")) return unary();
    return postfix();
  }

  Expression postfix() {
    Expression value = primary();
    for (;;) {
      const int line = now().line;
      if (accept(".")) {
        std::string name = expect_name("the name of a member");
        value = accept("(") ? call(Kind::kMethod, line, std::move(name), list_of(std::move(value)), true)
                            : node(Kind::kMember, line, std::move(name), list_of(std::move(value)));
      } else if (accept("[")) {
        value = item(line, std::move(value));
      } else if (now().is("(") && value.kind == Kind::kName) {
        take();
        value = call(Kind::kCall, line, value.name, {}, true);
      } else {
        return value;
      }
    }
  }

  Expression item(int line, Expression value) {
    std::vector<Expression> parts;
    bool is_slice = false;
    const auto part = [&] {
      parts.push_back(now().is(":") || now().is("]") ? Expression{.line = line, .literal = Value::none()} : expression());
    };
    if (now().is("]")) fail("an item");
    part();
    while (parts.size() < 3 && accept(":")) {
      is_slice = true;
      part();
    }
    expect("]");
    std::vector<Expression> operands = list_of(std::move(value));
    if (!is_slice) {
      operands.push_back(std::move(parts[0]));
      return node(Kind::kItem, line, "", std::move(operands));
    }
    while (parts.size() < 3) parts.push_back({.line = line, .literal = Value::none()});
    for (Expression& bound : parts) operands.push_back(std::move(bound));
    return node(Kind::kSlice, line, "", std::move(operands));
  }

  // Arguments follow when `has_arguments`, the opening bracket behind us.
  Expression call(Kind kind, int line, std::string name, std::vector<Expression> operands, bool has_arguments) {
    std::vector<std::pair<std::string, Expression>> keywords;
    while (has_arguments && !accept(")")) {
      if (now().kind == Token::Kind::kName && next().is("=")) {
        std::string keyword = take().text;
        take();
        keywords.emplace_back(std::move(keyword), expression());
      } else {
        operands.push_back(expression());
      }
      if (!accept(",")) {
        expect(")");
        break;
      }
    }
    int depth = 1;
    for (const auto& [keyword, value] : keywords) depth = std::max(depth, value.depth + 1);
    Expression result = node(kind, line, std::move(name), std::move(operands));
    result.keywords = std::move(keywords);
    result.depth = std::max(result.depth, depth);
    return result;
  }

  Expression literal(int line, Value value) { return {.line = line, .literal = std::move(value)}; }

  Expression primary() {
    const Token token = now();
    if (token.kind == Token::Kind::kEnd || token.kind == Token::Kind::kOutputEnd || token.kind == Token::Kind::kStatementEnd) {
      fail("an expression");
    }
    take();
    switch (token.kind) {
      case Token::Kind::kInteger:
        return literal(token.line, Value::integer(token.integer));
      case Token::Kind::kNumber:
        return literal(token.line, Value::number(token.number));
      case Token::Kind::kString: {
        std::string text = token.text;
        while (now().kind == Token::Kind::kString) text += take().text;
        return literal(token.line, Value::string(std::move(text)));
      }
      case Token::Kind::kName:
        if (token.text == "true" || token.text == "True") return literal(token.line, Value::boolean(true));
        if (token.text == "false" || token.text == "False") return literal(token.line, Value::boolean(false));
        if (token.text == "none" || token.text == "None") return literal(token.line, Value::none());
        return {.kind = Kind::kName, .line = token.line, .name = token.text};
      default:
        break;
    }
    if (token.is("(")) return bracketed(token.line);
    if (token.is("[")) return node(Kind::kList, token.line, "", elements("]"));
    if (token.is("{")) return dictionary(token.line);
    --at_;
    fail("an expression");
  }

  // (a) is a; (a, b) and () are lists.
  Expression bracketed(int line) {
    if (accept(")")) return node(Kind::kList, line, "", {});
    Expression first = expression();
    if (accept(")")) return first;
    expect(",");
    std::vector<Expression> values = list_of(std::move(first));
    for (Expression& value : elements(")")) values.push_back(std::move(value));
    return node(Kind::kList, line, "", std::move(values));
  }

  std::vector<Expression> elements(std::string_view close) {
    std::vector<Expression> result;
    while (!accept(close)) {
      result.push_back(expression());
      if (!accept(",")) {
        expect(close);
        break;
      }
    }
    return result;
  }

  Expression dictionary(int line) {
    std::vector<Expression> parts;
    while (!accept("}")) {
      parts.push_back(expression());
      expect(":");
      parts.push_back(expression());
      if (!accept(",")) {
        expect("}");
        break;
      }
    }
    return node(Kind::kDict, line, "", std::move(parts));
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
};

}  // namespace

Body parse_template(std::string_view source) { return Parser(tokens_of(source)).whole(); }

}  // namespace stableqat::chat
