// Filters, tests and methods that template expressions call.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/value.h"

namespace stableqat::chat {

// What stands in the brackets of a call.
struct Arguments {
  std::string_view function;
  std::vector<Value> values;
  Members keywords;

  // The argument at `index`, or with this keyword; undefined where there is none.
  Value get(std::size_t index, std::string_view keyword) const;
  // Throws TemplateProblem unless there are between `least` and `most`, keywords included.
  void expect(std::size_t least, std::size_t most) const;
};

// value | name(arguments), value is name(arguments), value.name(arguments). Throw TemplateProblem.
Value apply_filter(std::string_view name, const Value& value, const Arguments& arguments, Budget& budget);
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments, Budget& budget);
Value call_method(std::string_view name, const Value& value, const Arguments& arguments, Budget& budget);

// Python's <; equal() and less() make all comparisons of numbers and strings.
bool less(const Value& a, const Value& b);

// value[index] and value[first:last:step]; bounds of none are the ends.
Value item_of(const Value& value, const Value& index, Budget& budget);
Value slice_of(const Value& value, const Value& first, const Value& last, const Value& step, Budget& budget);

// a op b for + - * / // % ** ~.
Value arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget);

}  // namespace stableqat::chat
