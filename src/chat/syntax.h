// The parsed form of a template.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/value.h"

namespace stableqat::chat {

struct Expression {
  enum class Kind {
    kLiteral,
    kName,         // name
    kMember,       // operands[0].name
    kItem,         // operands[0][operands[1]]
    kSlice,        // operands[0][operands[1] : operands[2] : operands[3]], literals of none where they are left out
    kList,         // operands
    kDict,         // operands: key, value, key, ...
    kCall,         // name(operands, keywords)
    kMethod,       // operands[0].name(the other operands, keywords)
    kFilter,       // operands[0] | name(the other operands, keywords)
    kTest,         // operands[0] is name(the other operands)
    kNot,          // not operands[0]
    kNegative,     // - operands[0]
    kBinary,       // operands[0] name operands[1]: + - * / // % ** ~
    kCompare,      // operands in a row; name has what stands between them, with blanks between: == != < <= > >= in !in
    kAnd,          // operands
    kOr,           // operands
    kConditional,  // operands[0] if operands[1] else operands[2]
  };
  Kind kind = Kind::kLiteral;
  int line = 0;
  int depth = 1;  // of the tree below
  Value literal = {};
  std::string name = {};
  std::vector<Expression> operands = {};
  std::vector<std::pair<std::string, Expression>> keywords = {};
};

struct Statement;
using Body = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // {{ expressions[0] }}
    kIf,        // bodies[i] under expressions[i]; one body more: else
    kFor,       // targets in expressions[0], where expressions[1] if it is there: bodies[0]; without an element bodies[1]
    kSet,       // targets = expressions[0]
    kSetBlock,  // targets[0] = text of bodies[0]
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  std::string text = {};
  std::vector<std::string> targets = {};  // names; "space.member" for a namespace's
  std::vector<Expression> expressions = {};
  std::vector<Body> bodies = {};
};

// Throws TemplateProblem.
Body parse_template(std::string_view source);

}  // namespace stableqat::chat
