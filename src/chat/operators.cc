#include <algorithm>
#include <cmath>
#include <limits>

#include "chat/functions.h"

namespace stableqat::chat {

namespace {

// A list, or the characters of a string, from `first` on in steps of `step`: Python's indices, clamped.
struct Indices {
  std::int64_t first;
  std::int64_t last;
  std::int64_t step;
};

Indices indices_of(std::int64_t size, const Value& first, const Value& last, const Value& step) {
  const std::int64_t by = step.is_none() ? 1 : step.as_integer("the step of a slice");
  if (by == 0 || by == std::numeric_limits<std::int64_t>::min()) throw TemplateProblem{"a slice with this step", "another step than 0"};
  const auto bound = [&](const Value& value, std::int64_t otherwise) {
    if (value.is_none()) return otherwise;
    const std::int64_t index = value.as_integer("a bound of a slice");
    const std::int64_t from_start = index < 0 ? index + size : index;
    return by > 0 ? std::clamp<std::int64_t>(from_start, 0, size) : std::clamp<std::int64_t>(from_start, -1, size - 1);
  };
  return {bound(first, by > 0 ? 0 : size - 1), bound(last, by > 0 ? size : -1), by};
}

template <class Visitor>
void for_each_index(const Indices& range, std::int64_t size, Visitor visit) {
  if (range.step > 0) {
    for (std::int64_t i = range.first; i < range.last; i += std::min(range.step, size)) visit(static_cast<std::size_t>(i));
  } else {
    for (std::int64_t i = range.first; i > range.last; i += std::max(range.step, -size)) visit(static_cast<std::size_t>(i));
  }
}

std::string repeated(const std::string& text, std::int64_t count, Budget& budget) {
  std::string result;
  for (std::int64_t i = 0; i < count; ++i) {
    budget.step();
    budget.text(text.size());
    result += text;
  }
  return result;
}

[[noreturn]] void beyond_64_bits() { throw TemplateProblem{"an integer beyond 64 bits", "a smaller one"}; }

Value integer_arithmetic(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (op == "+" || op == "-" || op == "*") {
    const bool overflows = op == "+"   ? __builtin_add_overflow(a, b, &result)
                           : op == "-" ? __builtin_sub_overflow(a, b, &result)
                                       : __builtin_mul_overflow(a, b, &result);
    if (overflows) beyond_64_bits();
    return Value::integer(result);
  }
  if (op == "**") {
    if (b < 0) return Value::number(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = 1;
    for (std::int64_t i = 0; i < b && result != 0 && !(a == 1); ++i) {
      if (i > 64 && (a == -1)) return Value::integer(b % 2 == 0 ? 1 : -1);
      if (__builtin_mul_overflow(result, a, &result)) beyond_64_bits();
    }
    return Value::integer(result);
  }
  if (b == 0) throw TemplateProblem{"a division by zero", "another divisor"};
  if (op == "/") return Value::number(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == "%" ? Value::integer(0) : integer_arithmetic("-", 0, a);
  const std::int64_t remainder = a % b != 0 && ((a % b < 0) != (b < 0)) ? a % b + b : a % b;  // of the divisor's sign
  return Value::integer(op == "%" ? remainder : (a - remainder) / b);
}

Value float_arithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value::number(a + b);
  if (op == "-") return Value::number(a - b);
  if (op == "*") return Value::number(a * b);
  if (op == "**") return Value::number(std::pow(a, b));
  if (b == 0) throw TemplateProblem{"a division by zero", "another divisor"};
  if (op == "/") return Value::number(a / b);
  if (op == "//") return Value::number(std::floor(a / b));
  return Value::number(a - b * std::floor(a / b));
}

}  // namespace

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return a.as_number("") < b.as_number("");
  if (a.is_string() && b.is_string()) return a.as_string("") < b.as_string("");
  throw TemplateProblem{"a comparison of " + a.kind() + " and " + b.kind(), "two numbers or two strings"};
}

Value item_of(const Value& value, const Value& index, Budget& budget) {
  if (value.is_dict() || value.as_namespace() != nullptr) {
    const std::string& name = index.as_string("a key");
    budget.step();
    const Value* found = value.find(name);
    return found == nullptr ? Value::undefined(name) : *found;
  }
  if (!value.is_list() && !value.is_string()) throw TemplateProblem{"an item of " + value.kind(), "a list, dictionary or string"};
  const List elements = value.is_list() ? List{} : value.elements(budget);
  const List& items = value.is_list() ? value.as_list("") : elements;
  const auto size = static_cast<std::int64_t>(items.size());
  const std::int64_t at = index.as_integer("an index");
  const std::int64_t from_start = at < 0 ? at + size : at;
  if (from_start < 0 || from_start >= size) return Value::undefined("item " + std::to_string(at));
  return items[static_cast<std::size_t>(from_start)];
}

Value slice_of(const Value& value, const Value& first, const Value& last, const Value& step, Budget& budget) {
  if (value.is_list()) {
    const List& items = value.as_list("");
    List result;
    const auto size = static_cast<std::int64_t>(items.size());
    for_each_index(indices_of(size, first, last, step), size, [&](std::size_t i) { result.push_back(items[i]); });
    budget.step(result.size());
    return Value::list(std::move(result));
  }
  const std::string& text = value.as_string("a slice");
  const std::vector<std::size_t> offsets = character_offsets(text);
  budget.step(1 + offsets.size() / 16);
  std::string result;
  const auto size = static_cast<std::int64_t>(offsets.size()) - 1;
  for_each_index(indices_of(size, first, last, step), size,
                 [&](std::size_t i) { result += text.substr(offsets[i], offsets[i + 1] - offsets[i]); });
  budget.text(result.size());
  return Value::string(std::move(result));
}

Value arithmetic(std::string_view op, const Value& a, const Value& b, Budget& budget) {
  if (op == "~") return Value::string(a.text(budget) + b.text(budget));
  if (a.is_integral() && b.is_integral()) return integer_arithmetic(op, a.as_integer(""), b.as_integer(""));
  if (a.is_number() && b.is_number()) return float_arithmetic(op, a.as_number(""), b.as_number(""));
  if (op == "+" && a.is_string() && b.is_string()) {
    budget.text(a.as_string("").size() + b.as_string("").size());
    return Value::string(a.as_string("") + b.as_string(""));
  }
  if (op == "+" && a.is_list() && b.is_list()) {
    List values = a.as_list("");
    values.insert(values.end(), b.as_list("").begin(), b.as_list("").end());
    budget.step(values.size());
    return Value::list(std::move(values));
  }
  if (op == "*" && a.is_string() && b.is_integral()) return Value::string(repeated(a.as_string(""), b.as_integer(""), budget));
  if (op == "*" && b.is_string() && a.is_integral()) return Value::string(repeated(b.as_string(""), a.as_integer(""), budget));
  throw TemplateProblem{a.kind() + " " + std::string(op) + " " + b.kind(), "values that go together"};
}

}  // namespace stableqat::chat
