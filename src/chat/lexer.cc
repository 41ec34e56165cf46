// Source of the rules: Jinja's documentation, "Template Designer Documentation", whitespace control and literals.
#include "chat/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "chat/text.h"
#include "chat/value.h"

namespace stableqat::chat {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

// Line ends as Python's universal newlines, without the last one.
std::string normalized(std::string_view source) {
  std::string result;
  result.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      result += '\n';
      i += i + 1 < source.size() && source[i + 1] == '\n' ? 1 : 0;
    } else {
      result += source[i];
    }
  }
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

void append_utf8(std::string& out, std::uint32_t c) {
  const auto byte = [&out](std::uint32_t value) { out += static_cast<char>(value); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6);
    byte(0x80 | (c & 0x3F));
  } else {
    byte(0xE0 | c >> 12);
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  }
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const std::size_t tag = next_tag();
      const std::string_view text = source_.substr(at_, tag - at_);
      if (tag == source_.size()) {
        add_text(text);
        break;
      }
      const char kind = source_[tag + 1];
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      add_text(before_tag(text, kind, sign));
      at_ = tag + (sign == '-' || sign == '+' ? 3 : 2);
      if (kind == '#') {
        skip_comment();
      } else {
        const bool is_output = kind == '{';
        add(is_output ? Token::Kind::kOutputBegin : Token::Kind::kStatementBegin);
        inside_tag(is_output);
      }
      starts_line_ = at_ > 0 && source_[at_ - 1] == '\n';
    }
    add(Token::Kind::kEnd);
    return std::move(tokens_);
  }

 private:
  std::size_t next_tag() const {
    for (std::size_t i = at_; i + 1 < source_.size(); ++i) {
      if (source_[i] == '{' && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#')) return i;
    }
    return source_.size();
  }

  // lstrip_blocks: blanks between the start of a line and a statement or comment go.
  std::string_view before_tag(std::string_view text, char kind, char sign) const {
    if (sign == '-') return strip_right(text);
    if (sign == '+' || kind == '{') return text;
    const std::size_t line = text.rfind('\n') + 1;  // 0 where there is none
    const bool blank = text.find_first_not_of(" \t", line) == std::string_view::npos;
    return blank && (line > 0 || starts_line_) ? text.substr(0, line) : text;
  }

  void add_text(std::string_view text) {
    if (!text.empty()) add(Token::Kind::kText, std::string(text));
  }

  Token& add(Token::Kind kind, std::string text = "") {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(counted_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(std::max(at_, counted_)), '\n'));
    counted_ = std::max(at_, counted_);
    tokens_.push_back({.kind = kind, .text = std::move(text), .line = line_});
    return tokens_.back();
  }

  [[noreturn]] void fail(const std::string& found, const std::string& expected) {
    add(Token::Kind::kEnd);
    throw TemplateProblem{found, expected, line_};
  }

  // Behind the end of a tag: "-" takes all white space, trim_blocks one line end after a statement or comment.
  void after_tag(char sign, bool trims) {
    if (sign == '-') {
      at_ = source_.size() - strip_left(source_.substr(at_)).size();
    } else if (trims && sign != '+' && source_.substr(at_).starts_with('\n')) {
      ++at_;
    }
  }

  void skip_comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) fail("a comment without its end", "#}");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    at_ = end + 2;
    after_tag(sign, true);
  }

  void inside_tag(bool is_output) {
    const std::string_view close = is_output ? "}}" : "%}";
    int open_brackets = 0;
    for (;;) {
      const std::string_view rest = strip_left(source_.substr(at_));
      at_ = source_.size() - rest.size();
      if (rest.empty()) fail("a tag without its end", std::string(close));
      const bool has_sign = rest[0] == '-' || (rest[0] == '+' && !is_output);
      if (open_brackets == 0 && rest.substr(has_sign ? 1 : 0).starts_with(close)) {
        add(is_output ? Token::Kind::kOutputEnd : Token::Kind::kStatementEnd);
        at_ += has_sign ? 3 : 2;
        return after_tag(has_sign ? rest[0] : ' ', !is_output);
      }
      add_token(rest);
      const Token& token = tokens_.back();
      if (token.is("(") || token.is("[") || token.is("{")) ++open_brackets;
      if (token.is(")") || token.is("]") || token.is("}")) --open_brackets;
      if (open_brackets < 0) fail("'" + token.text + "'", "an opening bracket first");
    }
  }

  void add_token(std::string_view rest) {
    if (is_name_start(rest[0])) {
      const auto length = static_cast<std::size_t>(std::ranges::find_if_not(rest, is_name_part) - rest.begin());
      add(Token::Kind::kName, std::string(rest.substr(0, length)));
      at_ += length;
    } else if (is_digit(rest[0])) {
      add_number(rest);
    } else if (rest[0] == '"' || rest[0] == '\'') {
      add_string(rest);
    } else {
      add_operator(rest);
    }
  }

  void add_number(std::string_view rest) {
    const auto digits_from = [rest](std::size_t i) {
      while (i < rest.size() && is_digit(rest[i])) ++i;
      return i;
    };
    const std::size_t whole = digits_from(0);
    std::size_t end = whole;
    if (end + 1 < rest.size() && rest[end] == '.' && is_digit(rest[end + 1])) end = digits_from(end + 1);
    if (end + 1 < rest.size() && (rest[end] == 'e' || rest[end] == 'E')) {
      const std::size_t digits = end + (rest[end + 1] == '-' || rest[end + 1] == '+' ? 2 : 1);
      if (digits < rest.size() && is_digit(rest[digits])) end = digits_from(digits);
    }
    if (end > whole) {
      double& number = add(Token::Kind::kNumber, std::string(rest.substr(0, end))).number;
      std::from_chars(rest.data(), rest.data() + end, number);
    } else {
      std::int64_t& integer = add(Token::Kind::kInteger, std::string(rest.substr(0, end))).integer;
      if (std::from_chars(rest.data(), rest.data() + end, integer).ec != std::errc{}) fail("a number beyond 64 bits", "a smaller one");
    }
    at_ += end;
  }

  void add_string(std::string_view rest) {
    std::string text;
    std::size_t i = 1;
    while (i < rest.size() && rest[i] != rest[0]) {
      if (rest[i] == '\\' && i + 1 < rest.size()) {
        i = add_escape(rest, i + 1, text);
      } else {
        text += rest[i++];
      }
    }
    if (i >= rest.size()) fail("a string without its end", std::string(1, rest[0]));
    add(Token::Kind::kString, std::move(text));
    at_ += i + 1;
  }

  // The escape whose letter is at `i`; returns where the text goes on. As in Python, an unknown one stands for itself.
  static std::size_t add_escape(std::string_view rest, std::size_t i, std::string& text) {
    constexpr std::string_view kLetters = "nrtbfva\\'\"0";
    constexpr std::string_view kMeanings("\n\r\t\b\f\v\a\\'\"\0", 11);
    if (const std::size_t letter = kLetters.find(rest[i]); letter != std::string_view::npos) {
      text += kMeanings[letter];
      return i + 1;
    }
    if (rest[i] == '\n') return i + 1;
    const std::size_t digits = rest[i] == 'x' ? 2 : rest[i] == 'u' ? 4 : 0;
    std::uint32_t code = 0;
    if (digits > 0 && i + digits < rest.size() &&
        std::from_chars(rest.data() + i + 1, rest.data() + i + 1 + digits, code, 16).ptr == rest.data() + i + 1 + digits) {
      append_utf8(text, code);
      return i + 1 + digits;
    }
    text += '\\';
    text += rest[i];
    return i + 1;
  }

  void add_operator(std::string_view rest) {
    constexpr std::array<std::string_view, 25> kOperators{"//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "<",
                                                          ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ",", ":", ".", "|"};
    const auto* const found = std::ranges::find_if(kOperators, [rest](std::string_view op) { return rest.starts_with(op); });
    if (found == kOperators.end()) fail("'" + std::string(rest.substr(0, 1)) + "'", "an expression");
    add(Token::Kind::kOperator, std::string(*found));
    at_ += found->size();
  }

  std::string_view source_;
  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  bool starts_line_ = true;  // the text at at_ begins a line
  std::size_t counted_ = 0;  // up to here lines are counted
  int line_ = 1;
};

}  // namespace

std::vector<Token> tokens_of(std::string_view source) {
  const std::string text = normalized(source);
  return Lexer(text).run();
}

}  // namespace stableqat::chat
