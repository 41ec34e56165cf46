// A template's source as tokens, white space already taken away as trim_blocks, lstrip_blocks and the signs in "{%-" ask for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stableqat::chat {

struct Token {
  enum class Kind { kText, kOutputBegin, kOutputEnd, kStatementBegin, kStatementEnd, kName, kInteger, kNumber, kString, kOperator, kEnd };
  Kind kind = Kind::kEnd;
  std::string text = {};  // of kText and kString: what they stand for
  std::int64_t integer = 0;
  double number = 0;
  int line = 1;

  bool is(std::string_view op) const { return kind == Kind::kOperator && text == op; }
  bool is_name(std::string_view name) const { return kind == Kind::kName && text == name; }
};

// Ends in kEnd. Throws TemplateProblem.
std::vector<Token> tokens_of(std::string_view source);

}  // namespace stableqat::chat
